"""Stands in for vqlab.main: notes how it was started, then does as its plan says.

$STAND_IN is a folder. plan.json in it holds a list for each process: what to do at its first start,
at its second, and so on; the last entry counts from then on. PROCESS-START.json is the note.
"""

import json
import os
import pathlib
import signal
import sys
import time


def heed_signals() -> list[int]:
    """The signals received so far, from now on; a second one, which no launcher may send while a
    run is saving, ends this process at once with 99."""
    received = []

    def receive(number, _frame):
        received.append(number)
        if len(received) > 1:
            sys.exit(99)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)
    return received


def wait_for_signal(received: list[int]) -> None:
    """What training does, shortened: a signal ends it with 75 a second later."""
    print("waiting", flush=True)
    deadline = time.monotonic() + 60
    while not received and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    sys.exit(75)


def meet() -> None:
    """Finds the other processes for real, and adds up what each of them brings."""
    import jax
    from jax.experimental import multihost_utils

    names = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
    given = [os.environ.get(f"JAX_{name}") for name in names]
    explicit = (given[0], int(given[1]), int(given[2])) if given[0] else ()
    jax.distributed.initialize(*explicit)
    total = multihost_utils.process_allgather(jax.process_index() + 1).sum()
    print(f"met {jax.process_count()} {jax.device_count()} {total}", flush=True)


def leave_note(path: pathlib.Path) -> None:
    """From when it is seen on, it is whole, and signals are heeded."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(
        json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()})
    )
    unfinished.rename(path)


def main() -> None:
    folder = pathlib.Path(os.environ["STAND_IN"])
    names = ("JAX_PROCESS_ID", "SLURM_PROCID", "TPU_WORKER_ID")
    process = next(os.environ[name] for name in names if name in os.environ)
    start = len(list(folder.glob(f"{process}-*.json")))
    plan = json.loads((folder / "plan.json").read_text())[process]
    what = plan[min(start, len(plan) - 1)]
    received = heed_signals() if what == "wait" else []
    if what == "hang":  # a process whose peer is gone: SIGTERM does not end it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_note(folder / f"{process}-{start}.json")
    print(f"process {process}", flush=True)
    match what:
        case "wait":
            wait_for_signal(received)
        case "hang":
            time.sleep(60)
        case "abort":
            os.abort()
        case "meet":
            meet()
        case code:
            sys.exit(code)


if __name__ == "__main__":
    main()

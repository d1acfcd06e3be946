"""Stands in for gcloud: a queued resource that is a file, and a TPU pod of two local folders.

$POD is a folder. states.json in it lists what the queue answers, one state for each look, the last
one from then on; "" is no such resource. calls.jsonl gets every call.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

POD = pathlib.Path(os.environ["POD"])
HOSTS = (0, 1)


def set_states(*states: str) -> None:
    (POD / "states.json").write_text(json.dumps(states))


def queue(verb: str) -> int:
    states = json.loads((POD / "states.json").read_text())
    if verb == "list":
        print(states[0])
        set_states(*(states[1:] or states))
    elif verb == "create":
        if (POD / "refuses").exists():
            print("no such accelerator type", file=sys.stderr)
            return 1
        set_states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    elif verb == "delete":
        set_states("")
    return 0


def home(host: int) -> pathlib.Path:
    folder = POD / f"host{host}"
    folder.mkdir(exist_ok=True)
    return folder


def copy(source: str, target: str) -> int:
    for host in HOSTS:
        shutil.copy(source, home(host) / target.partition(":")[2])
    return 0


def ssh(command: str) -> int:
    """Runs it on all hosts at once; like gcloud, ends with the first code that is not 0."""
    running = []
    for host in HOSTS:
        env = os.environ | {"HOME": str(home(host)), "TPU_WORKER_ID": str(host)}
        env["HOSTNAME"] = f"t1v-n-0a1b2c3d-w-{host}"
        running.append(subprocess.Popen(["bash", "-c", command], cwd=home(host), env=env))
    codes = [process.wait() for process in running]
    return next((code for code in codes if code), 0)


def main() -> int:
    arguments = sys.argv[1:]
    with (POD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    options = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
    service, verb, *rest = [a for a in arguments[2:] if not a.startswith("--")]
    assert arguments[:2] == ["compute", "tpus"] and options["zone"] == "a zone"
    if service == "queued-resources":
        return queue(verb)
    assert service == "tpu-vm" and options["worker"] == "all"
    return ssh(options["command"]) if verb == "ssh" else copy(*rest)


if __name__ == "__main__":
    sys.exit(main())

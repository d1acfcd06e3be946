"""Starts runs of one or several processes on this machine, as a launcher would."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


def start(kind, workdir, *arguments, seen=None, **settings):
    """A training run, see `launch`; `seen` is a folder for `recorded`.

    PROCESS in `workdir` stands for the process's number.
    """
    module = "vqlab.main"
    if seen:
        module = "tests.processes.recorded"
        seen.mkdir(exist_ok=True)
        settings["SEEN"] = str(seen)
    settings.setdefault("cache", pathlib.Path(workdir).parent / "compiled")
    arguments = (f"--config=tests/processes/configs.py:{kind}", *arguments, f"--workdir={workdir}")
    return launch(module, *arguments, **settings)


def launch(module, *arguments, processes=1, devices=1, cache, **variables):
    """One Popen a process, each with `devices` CPU devices, with `variables` in its environment.

    PROCESS in an argument stands for the process's number.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        # Threads of XLA: as few as there are cores can all wait for a device that then has none.
        "NPROC": "32",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    if processes > 1:
        port = free_port()
        arguments += (f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={processes}")
        arguments += ("--process_id=PROCESS",)
    return [
        subprocess.Popen(
            [sys.executable, "-m", module]
            + [argument.replace("PROCESS", str(index)) for argument in arguments],
            cwd=ROOT,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]


def finish(started, timeout=300):
    """(exit codes, outputs) of all, killed after `timeout` seconds."""
    outputs = []
    try:
        for process in started:
            outputs.append(process.communicate(timeout=timeout)[0])
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [process.returncode for process in started], outputs


def run(kind, workdir, *arguments, **settings):
    """A whole run that must end well; its metrics by step."""
    codes, outputs = finish(start(kind, workdir, *arguments, **settings))
    assert not any(codes), "\n".join(outputs)
    return metrics(workdir)


def metrics(workdir):
    """{step: {name: value}} of metrics.jsonl."""
    merged = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        merged.setdefault(line.pop("step"), {}).update(line)
    return merged


def images_seen(seen):
    """{global position: digest} over all processes; fails where a position comes twice unlike."""
    rows = {}
    for path in seen.iterdir():
        for text in path.read_text().splitlines():
            line = json.loads(text)
            for offset, digest in enumerate(line["rows"]):
                assert rows.setdefault(line["position"] + offset, digest) == digest
    return rows


def parameters(workdir, step):
    """Every array of a checkpoint's state as NumPy, by path."""
    import jax

    from vqlab.training.checkpoint import Checkpointer

    checkpointer = Checkpointer(workdir)
    names = ("params", "variables", "opt_state", "ema")
    state = checkpointer.restore_weights(names, step)
    checkpointer.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

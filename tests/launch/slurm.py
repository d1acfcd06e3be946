"""A SLURM cluster of one node on this machine: real daemons in a folder of their own.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge; nothing of the machine's own
configuration is read or changed. Its two GPUs are device files that are there anyway.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONFIG = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credentials of its last run are void; two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if _find(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "the daemons need root"


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def cluster(folder: pathlib.Path):
    """Runs the daemons; yields the environment in which sbatch and the others find them."""
    folder.chmod(0o755)  # munged trusts no socket in a folder that others can write
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, folder=folder, ports=_free_ports(2), cores=os.cpu_count())
    )
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    env = os.environ | {"SLURM_CONF": str(config)}
    files = {"key-file": key} | {f"{n}-file": folder / f"munge.{n}" for n in ("pid", "seed", "log")}
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"]
        + [f"--{name}={path}" for name, path in files.items()],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    ]
    running = []
    try:
        for daemon in daemons:
            log = (folder / f"{daemon[0]}.out").open("w")
            command = [_find(daemon[0]), *daemon[1:]]
            running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            time.sleep(1.0)
        yield env
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)

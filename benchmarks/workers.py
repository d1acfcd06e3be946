"""Processes that each hold one side of a comparison, bound to the same CPUs, and take turns.

A benchmark starts itself again with `--side NAME --cpus LIST`; the child prints lines of JSON.
"""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

MEMORY_NOTE = (
    "additional peak: highest resident memory of the process during its first pass (VmHWM, reset "
    "before it) minus resident memory just before, with data and parameters made and, for JAX, the "
    "pass compiled; memory freed earlier is handed back to the system first (malloc_trim)"
)


class CommandLine(argparse.ArgumentParser):
    """Of `python -m benchmarks.NAME`: --threads, --json and, hidden, what `start_worker` adds.

    Args:
      name: the module's.
      text: its docstring.
      sides: those of the comparison.
    """

    def __init__(self, name: str, text: str, sides: Collection[str]):
        super().__init__(
            prog=f"python -m benchmarks.{name}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._counts: list[str] = []
        self.add_count("threads", 2)
        self.add_argument("--json", action="store_true", help="end with one line of JSON")
        self.add_argument("--side", choices=tuple(sides), help=argparse.SUPPRESS)
        self.add_argument("--cpus", default="", help=argparse.SUPPRESS)

    def add_count(self, name: str, default: int, text: str = "") -> None:
        """`--NAME`, a whole number of at least 1."""
        self._counts.append(name)
        text = f"{text}; default %(default)s" if text else "default %(default)s"
        self.add_argument(f"--{name}", type=int, default=default, help=text)

    def parse_args(self, *arguments) -> argparse.Namespace:
        """Ends with a usage error where a count is below 1, or a thread has no CPU."""
        args = super().parse_args(*arguments)
        for name in self._counts:
            if getattr(args, name.replace("-", "_")) < 1:
                self.error(f"--{name} must be at least 1")
        available = len(os.sched_getaffinity(0))
        if args.threads > available:
            self.error(f"--threads {args.threads}: only {available} CPUs are available")
        return args

    def choices(self, option: str, text: str, known: Collection[str]) -> list[str]:
        """The names in `text`, with commas between; a usage error where one is not known."""
        chosen = text.split(",")
        if unknown := sorted(set(chosen) - set(known)):
            self.error(f"{option}: unknown {unknown}; choose from {', '.join(known)}")
        return chosen


def compare(
    args: argparse.Namespace,
    work: Callable[[argparse.Namespace], None],
    measure: Callable[[argparse.Namespace], dict],
    print_table: Callable[[dict], None],
) -> None:
    """A side's work; or the whole: its table, and with --json all of it in one line."""
    if args.side:
        bind(args.cpus)
        work(args)
        return
    result = measure(args)
    print_table(result)
    if args.json:
        print(json.dumps(result))


def require_torch(module: str, otherwise: str = "") -> None:
    """Exit code 2 without PyTorch; `otherwise` says what goes without it."""
    if importlib.util.find_spec("torch") is None:
        need = "compares with PyTorch: pip install -r requirements-torch.txt"
        print(f"{module} {need}{otherwise and f', or {otherwise}'}", file=sys.stderr)
        sys.exit(2)


def start_worker(module: str, side: str, threads: int) -> subprocess.Popen:
    """`python -m module` with this process's arguments, for one side on the first CPUs."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    environment = dict(os.environ, JAX_PLATFORMS="cpu", OMP_NUM_THREADS=str(threads))
    command = [sys.executable, "-m", module, *sys.argv[1:], "--side", side, "--cpus", cpus]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def bind(cpus: str) -> None:
    """Of a worker, before it imports jax or torch: both size their thread pools from it."""
    os.sched_setaffinity(0, map(int, cpus.split(",")))


def answer(worker: subprocess.Popen, side: str):
    """The next line that a worker prints."""
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"the {side} process ended with exit code {worker.wait()}")
    return json.loads(line)


def machine_facts() -> dict:
    """Load, processor and versions, for a result."""
    libraries = ("jax", "jaxlib", "flax", "torch")
    return {
        "load": os.getloadavg()[0],
        "cpu": cpu_model(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def additional_peak_mb(run) -> float | None:
    """What MEMORY_NOTE says, in MB (1e6 bytes); None where the system does not offer it."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    run()
    return max(_status_bytes("VmHWM") - before, 0) / 1e6


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

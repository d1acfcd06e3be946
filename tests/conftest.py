"""Eight CPU devices for every test, so that sharding is tested on any machine."""

import os
import signal
import tempfile

# Under nohup and in the background of a shell these begin ignored, for commands of tests too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests run each program a few times: what the compiler's optimizer takes, it never gives back.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# XLA's CPU client launches and runs programs on one pool of as many threads as there are devices. A
# launch that waits for a device's earlier programs holds a thread that those may need: on a busy
# machine all waited for each other, until XLA's time limit aborted the process.
os.environ.setdefault("NPROC", "32")
# What one test compiled, another (or a command that it starts) need not compile again.
_CACHE = tempfile.TemporaryDirectory(prefix="vqlab-test-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Annotated shapes and types of the layers that compute are checked at each call.
CHECKED = [
    "vqlab.ops",
    "vqlab.diffusion",
    "vqlab.nn",
    "vqlab.models",
    "vqlab.evaluation.image_metrics",
    "vqlab.evaluation.spectra",
]
install_import_hook(CHECKED, "beartype.beartype")

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="session")
def parsed_flags():
    """Grain's worker processes read absl flags, which pytest does not parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

"""Eight CPU devices for every test, so that sharding is tested on any machine."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="session")
def parsed_flags():
    """Grain's worker processes read absl flags, which pytest does not parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

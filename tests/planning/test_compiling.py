"""Compiled memory, refusals, and the batch that fits."""

import json
import time

import jax
import pytest

from vqlab.planning import compiling
from vqlab.planning.compiling import OutOfMemory


def test_what_a_program_takes():
    x = jax.ShapeDtypeStruct((1000,), "float32")
    result = compiling.compile_step(jax.jit(lambda x: (x + 1, x.sum())).lower(x))
    assert result.memory.arguments == 4000
    assert result.memory.outputs >= 4004
    assert result.memory.peak >= 8004
    assert "ENTRY" in result.text and result.seconds > 0


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (299.50G) exceeds available HBM (15.75G).",
            OutOfMemory(299.5 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1.50T of 15.75G hbm. "
            "Exceeded hbm capacity by 1.48T.",
            OutOfMemory(1.5 * 2**40, 15.75 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: in other words", OutOfMemory(None, None)),
    ],
)
def test_refusals_are_read(message, expected):
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(message)

    result = compiling.compile_step(Lowered())
    assert result._replace(seconds=0.0) == expected
    assert compiling.from_json(json.loads(json.dumps(compiling.to_json(result)))) == result


def test_other_errors_are_not_swallowed():
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiling.compile_step(Lowered())


def test_what_was_compiled_is_the_same_from_json():
    result = compiling.Compiled("ENTRY", compiling.Memory(1, 2, 3, 6), 7.0)
    assert compiling.from_json(json.loads(json.dumps(compiling.to_json(result)))) == result


def test_the_largest_batch():
    # 4 of state and 2 an image: 10 for 3 images, so that 16 hold 6.
    assert compiling.largest_batch(10, 4, 3, 16) == 6
    assert compiling.largest_batch(10, 4, 3, 16, multiple=4) == 4
    assert compiling.largest_batch(40, 4, 3, 16) == 1
    assert compiling.largest_batch(40, 20, 3, 16) == 0


def test_progress_ticks():
    said = []
    with compiling.ticking(said.append, "compiling", every=0.01):
        time.sleep(0.1)
    assert said and said[0].startswith("compiling: ")

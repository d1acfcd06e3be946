"""Reading compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from tests.planning.programs import TPU
from vqlab.planning import hlo


def test_computations_and_how_often_they_run():
    program = hlo.parse(TPU)
    assert program.entry == "main"
    assert hlo.executions(program) == {"main": 1, "body": 4}
    assert hlo.executions(program, fusions=True) == {"main": 1, "body": 4, "take": 4, "put": 4}


def test_an_instruction():
    line = hlo.parse(TPU).computations["body"].instructions["sent"]
    assert (line.opcode, line.operands, line.is_root) == ("all-reduce", ("row.1",), False)
    assert line.called == {"to_apply": "add"}
    assert line.arrays == (hlo.Array("f32", (256, 256), space=1),)
    assert line.arrays[0].bytes == 256 * 256 * 4


def test_shapes():
    arrays = hlo.arrays_of("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[], s4[10], u32[0])")
    assert [array.bytes for array in arrays] == [12, 1, 5, 0]
    assert [array.space for array in arrays] == [1, 0, 0, 0]


def test_the_cpu_compilers_programs_are_read():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = jax.ShapeDtypeStruct((8, 8), "float32"), jax.ShapeDtypeStruct((5, 8, 8), "float32")
    program = hlo.parse(jax.jit(layers).lower(*shapes).compile().as_text())
    assert max(hlo.executions(program).values()) == 5


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no compiled program"):
        hlo.parse("module @jit_f {\n}\n")

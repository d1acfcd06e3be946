"""Bytes between a device and its memory."""

import jax
import jax.numpy as jnp

from tests.planning.programs import TPU
from vqlab.planning import hlo
from vqlab.planning.traffic import memory_traffic


def test_slices_move_their_own_size_and_the_chips_own_memory_is_free():
    # Each turn reads one of the stack's four rows, and writes it back in place; the counter, the
    # row itself and its sum are on the chip. The gather reads 2,000 and writes 16,000 bytes (its
    # start lists the operand too).
    row = 256 * 256 * 4
    counters = 4 * 3 * 4  # the turn's number: read by the addition and both fusions
    gathered = 2000 + (2000 + 16000)
    assert memory_traffic(hlo.parse(TPU)) == 4 * 2 * row + counters + gathered


def test_an_elementwise_program_reads_and_writes_once():
    x = jax.ShapeDtypeStruct((1000,), "float32")
    compiled = jax.jit(lambda x, y: jnp.tanh(x) * y + 1).lower(x, x).compile()
    assert memory_traffic(hlo.parse(compiled.as_text())) == 3 * 4000

"""How many concepts a sample keeps while training."""

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.ops import nesting

TOTAL, BATCH = 8, 8000


def draw(**changes):
    settings = {"is_nested": True, "condition_dropout": 0.1, "null_share": 0.0} | changes
    return np.asarray(nesting.draw_num_kept(jax.random.key(0), BATCH, TOTAL, **settings))


def test_keep_first_keeps_a_prefix():
    keep = nesting.keep_first(jnp.asarray([0, 2, 3]), 3)
    assert keep.tolist() == [[False] * 3, [True, True, False], [True] * 3]


def test_before_nesting_all_or_none_are_kept():
    kept = draw(is_nested=False)
    assert set(kept) == {0, TOTAL}
    assert abs(np.mean(kept == 0) - 0.1) < 0.01  # 3 standard deviations


def test_nested_counts_are_uniform_over_1_to_s_and_never_0():
    kept = draw()
    shares = np.bincount(kept, minlength=TOTAL + 1) / BATCH
    assert shares[0] == 0
    np.testing.assert_allclose(shares[1:], 1 / TOTAL, atol=0.012)


def test_null_share_trains_the_case_without_concepts_after_the_switch():
    kept = draw(null_share=0.25)
    assert abs(np.mean(kept == 0) - 0.25) < 0.015
    assert set(kept) == set(range(TOTAL + 1))


def test_the_switch_may_be_traced():
    traced = jax.jit(
        lambda is_nested: nesting.draw_num_kept(
            jax.random.key(0),
            BATCH,
            TOTAL,
            is_nested=is_nested,
            condition_dropout=0.1,
            null_share=0.0,
        )
    )
    np.testing.assert_array_equal(traced(True), draw())
    np.testing.assert_array_equal(traced(False), draw(is_nested=False))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops import masks

PUBLISHED = (0.0, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    "r, kept", [(0.1, 1), (0.19, 1), (0.2, 2), (0.25, 2), (0.35, 3), (0.4, 4), (0.9, 4)]
)
def test_group_is_masked_when_r_is_below_its_probability(r, kept):
    keep = masks.nested_keep(jnp.array([r]), PUBLISHED)
    assert keep[0].tolist() == [i < kept for i in range(4)]


def test_masks_of_eight_groups_are_nested_and_keep_the_first():
    probs = (0.0, 0.1, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0)
    keep = np.asarray(masks.draw_keep(jax.random.key(0), probs, 4096, per_sample=True))
    assert keep[:, 0].all() and not keep[:, 7].any()
    assert (keep[:, 1:] <= keep[:, :-1]).all()
    np.testing.assert_allclose(keep.mean(0), 1 - np.array(probs), atol=0.03)


def test_one_draw_for_the_batch_or_one_for_each_sample():
    key = jax.random.key(3)
    shared = [masks.draw_keep(jax.random.fold_in(key, i), PUBLISHED, 64) for i in range(50)]
    assert all((keep == keep[0]).all() for keep in shared)
    assert {int(keep[0].sum()) for keep in shared} == {1, 2, 3, 4}
    own = masks.draw_keep(key, PUBLISHED, 64, per_sample=True)
    assert len(np.unique(np.asarray(own), axis=0)) == 4


@pytest.mark.parametrize(
    "probs, message",
    [
        ((0.0, 0.2), r"\(0.0, 0.2\) has 2 entries for 4 groups"),
        ((0.1, 0.2, 0.3, 0.4), "must start with 0"),
        ((0.0, 0.3, 0.2, 0.4), r"\(0.0, 0.3, 0.2, 0.4\) must not decrease"),
        ((0.0, 0.2, 0.3, 1.4), r"must lie in \[0, 1\]"),
    ],
)
def test_probabilities_that_are_not_nested_are_refused(probs, message):
    with pytest.raises(ValueError, match=message):
        masks.check_mask_probs(probs, 4)


def test_a_range_spreads_over_any_number_of_groups():
    assert masks.spread_mask_probs((0.2, 0.4), 4) == pytest.approx((0.0, 0.2, 0.3, 0.4))
    eight = masks.spread_mask_probs((0.2, 0.4), 8)
    assert len(eight) == 8 and eight[0] == 0 and eight[-1] == pytest.approx(0.4)
    masks.check_mask_probs(eight, 8)
    assert masks.spread_mask_probs((0.2, 0.4), 2) == (0.0, 0.2)
    assert masks.spread_mask_probs((0.2, 0.4), 1) == (0.0,)
    assert masks.spread_mask_probs((), 4) == ()
    with pytest.raises(ValueError, match="must be \\(\\) or two probabilities"):
        masks.spread_mask_probs((0.2,), 4)

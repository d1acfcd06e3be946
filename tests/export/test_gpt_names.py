"""Names of both papers' second stages, in and out."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.parity.concept_transformer import load_concept_transformer
from tests.parity.index_transformer import load_index_transformer
from tests.parity.official import load, official_state
from vqlab.export.official import SCHEMES, scheme_of, to_state

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = {
    "mgvq_ar_tiny": load_index_transformer,
    "semanticist_gpt_tiny_cosine": load_concept_transformer,
}


@pytest.mark.parametrize("name", FILES)
def test_official_weights_go_in_and_out_unchanged(name):
    arrays, config = load(GOLDEN / f"{name}.npz")
    _, variables = FILES[name](arrays, config)
    assert scheme_of(variables) == "second_stage"
    theirs, ours = official_state(arrays), to_state(variables)
    assert ours.keys() == theirs.keys()
    for tensor, array in theirs.items():
        # A modulation that no released function uses is not kept.
        expected = (
            np.zeros_like(array)
            if "adaLN_modulation.1" in tensor and (tensor.startswith("ar_head"))
            else array
        )
        np.testing.assert_array_equal(ours[tensor], expected, err_msg=tensor)


def test_what_does_not_fit_is_listed():
    arrays, config = load(GOLDEN / "mgvq_ar_tiny.npz")
    _, variables = load_index_transformer(arrays, config)
    template = jax.eval_shape(lambda: variables)
    state = official_state(arrays)
    del state["ar_head.causal_space_blocks.1.attention.key.weight"]
    state["layers.7.attention.wo.weight"] = np.zeros((3, 3), np.float32)
    state["norm.weight"] = np.ones(5, np.float32)
    with pytest.raises(ValueError) as error:
        SCHEMES["second_stage"].from_state(state, template)
    for part in (
        "missing: ar_head.causal_space_blocks.1.attention.",
        "unexpected: ar_head.causal_space_blocks.1.attention.query.weight",
        "layers.7.attention.wo.weight",
        "norm.weight (5,) instead of (64,)",
    ):
        assert part in str(error.value)

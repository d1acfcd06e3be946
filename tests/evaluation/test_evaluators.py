"""Evaluators together: one that fails is named, one that the data do not allow is left out."""

import jax
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.evaluators import EVALUATORS, EvaluationError, run_evaluators
from vqlab.evaluation.needs import Unmeasurable


class Stub:
    """An evaluator of one number, or one that raises."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.protocol = {"psnr": "in dB"}

    def measure(self, weights, frozen):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return {"psnr": self.outcome}


def test_what_cannot_be_measured_is_left_out_with_one_line(caplog):
    evaluators = {"a": Stub(20.0), "b": Stub(Unmeasurable("one class")), "c": Stub(30.0)}
    assert run_evaluators(evaluators, {}, {}) == {"a/psnr": 20.0, "c/psnr": 30.0}
    assert caplog.messages == ["evaluation 'b' is left out: one class"]
    assert evaluators["b"].protocol == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\nlines"), "evaluation 'b' failed: two lines"),
        (MemoryError(), "evaluation 'b' failed: out of memory"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB"),
            "evaluation 'b' failed: out of device memory: RESOURCE_EXHAUSTED: 9 GB",
        ),
    ],
)
def test_one_that_fails_is_named_in_one_line(error, message):
    with pytest.raises(EvaluationError) as caught:
        run_evaluators({"a": Stub(20.0), "b": Stub(error)}, {}, {})
    assert str(caught.value) == message


def test_a_lost_process_is_not_the_evaluations_fault():
    with pytest.raises(jax.errors.JaxRuntimeError, match="Connection closed by peer"):
        lost = jax.errors.JaxRuntimeError("UNAVAILABLE: Connection closed by peer")
        run_evaluators({"a": Stub(lost)}, {}, {})


@pytest.mark.parametrize("name", [n for n, kind in EVALUATORS.items() if kind.of == "tokenizer"])
def test_images_of_which_none_can_be_read_are_an_error(name):
    codec = stubs.codec_of(stubs.grouped_tokenizer())
    masked = {
        "images": np.full((2, stubs.SIDE, stubs.SIDE, 3), -1, np.float32),
        "labels": np.zeros(2, np.int32),
        "mask": np.zeros(2, bool),
    }
    evaluator = EVALUATORS[name](codec, lambda split: iter([masked, masked]))
    with pytest.raises(EvaluationError, match="none of the images of the .* split can be read"):
        run_evaluators({name: evaluator}, stubs.weights_of(codec.module), {})

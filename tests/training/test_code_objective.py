"""Stage 1 of TiTok: the cross entropy of codes by hand, and codes that come with the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.models.titok import Prediction
from vqlab.nn.quantized import Quantized
from vqlab.training.objectives.code_prediction import CodeObjective

CODES = jnp.array([[[1, 0]]])


class Network:
    """Gives the same logits for every image, and codes of a frozen network that counts its runs."""

    runs = 0

    @property
    def pixel_tokenizer(self):
        return self

    def codes(self, frozen, images):
        self.runs += 1
        return CODES

    def apply(self, weights, images, *, mutable, **options):
        assert options["method"] == "predict" and options["train"]
        logits = jnp.log(jnp.array([[[[0.25, 0.75], [0.1, 0.9]]]]))
        losses = {"commit": jnp.array([0.5]), "vq": jnp.array([1.5])}
        quantized = Quantized(None, None, losses, {"usage": jnp.ones(1)}, {"moved": 1})
        return Prediction(logits, quantized), {"codebook_stats": "after"}


def call(objective, batch):
    variables = {"tokenizer": {"codebook_stats": "before"}}
    return objective(
        {"tokenizer": {}}, variables, {}, batch, rng=jax.random.key(0), step=jnp.int32(0)
    )


def test_the_loss_is_the_cross_entropy_of_the_codes_and_the_bottlenecks():
    objective = CodeObjective(network=Network(), quantizer_weight=0.1)
    losses, aux = call(objective, {"images": jnp.zeros((1, 2, 4, 3), jnp.uint8)})
    entropy = -(np.log(0.75) + np.log(0.1)) / 2
    assert float(aux.metrics["cross_entropy"]) == pytest.approx(entropy)
    assert float(losses["tokenizer"]) == pytest.approx(entropy + 0.1 * 2.0)
    assert float(aux.metrics["accuracy"]) == 0.5 and aux.metrics["usage"] == 1
    assert aux.variables == {"tokenizer": {"codebook_stats": "after"}}
    assert aux.update == {"moved": 1}


def test_codes_of_the_batch_are_taken_and_the_frozen_network_is_not_run():
    network = Network()
    objective = CodeObjective(network=network)
    batch = {"images": jnp.zeros((1, 2, 4, 3)), "pixel_codes": 1 - CODES}
    _, aux = call(objective, batch)
    assert network.runs == 0 and float(aux.metrics["accuracy"]) == 0.5
    assert set(objective.stored) == {"pixel_codes"}
    assert objective.prepare({}, {"images": batch["images"]})["pixel_codes"] is CODES
    assert network.runs == 1

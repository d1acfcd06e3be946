"""The tokenizer's losses with a Gaussian bottleneck."""

import jax
import numpy as np
import pytest

from tests import tiny, tiny_kl
from tests.filled import filled
from vqlab.training.objectives import TokenizerObjective


@pytest.fixture(scope="module")
def batch():
    return {"images": tiny.images(2, 4)}


def test_the_loss_holds_the_kl_and_its_gradient_reaches_every_layer(batch):
    objective = TokenizerObjective(
        tiny_kl.autoencoder(), reconstruction="l1", lpips_weight=0.0, quantizer_weight=0.01
    )
    params, variables = jax.eval_shape(objective.init, jax.random.key(0), batch)
    assert variables == {"tokenizer": {}} and set(params) == {"tokenizer"}
    params = {"tokenizer": filled(objective.tokenizer.init, batch["images"])["params"]}

    def loss(params, rng):
        losses, aux = objective(params, variables, {}, batch, rng=rng, step=0)
        return losses["tokenizer"], aux

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, aux), gradient = run(params, jax.random.key(1))
    assert set(aux.metrics) == {"l1", "kl"}
    np.testing.assert_allclose(total, aux.metrics["l1"] + 0.01 * aux.metrics["kl"], rtol=1e-6)
    assert objective.post_update(params, aux.update) is params
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if path[-1].key == "kernel" and not np.abs(leaf).max() > 1e-6
    ]
    assert still == []
    # Another key draws other latents: the decoder's loss differs, the KL does not.
    (_, other), _ = run(params, jax.random.key(2))
    assert other.metrics["l1"] != aux.metrics["l1"]
    np.testing.assert_allclose(other.metrics["kl"], aux.metrics["kl"], rtol=1e-6)

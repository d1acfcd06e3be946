"""Semanticist's training step as vqlab has it, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import _semanticist
from vqlab import models
from vqlab.ops.nesting import keep_first
from vqlab.training.objectives.concept_diffusion import ConceptObjective


def build_model(size: str):
    """The published tokenizer with DiT-`size`, in float32."""
    return models.build(_semanticist.model(size, dtype="float32"))


def abstract_variables(model):
    """Shapes of all parameters and constants."""
    side = model.encoder.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def random_variables(shapes):
    """Arrays of the given shapes, with numbers of the size of weights."""
    numbers = 0.02 * np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)
    return jax.tree.map(lambda x: jnp.asarray(np.resize(numbers, x.shape)), shapes)


def training_step(model):
    """(params, constants, images, latents, step) -> loss, terms and gradients."""
    objective = ConceptObjective(model)

    def step(params, constants, images, latents, step):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), 4)
        total, batch = model.num_concepts, len(images)
        kept = jax.random.randint(keys[0], (batch,), 1, total + 1)

        def loss(params):
            return objective.losses(
                {"params": params, **constants},
                images,
                latents,
                jax.random.normal(keys[1], latents.shape),
                model.process.draw_times(keys[2], batch),
                keep_first(kept, total),
                rngs={"drop_path": keys[3]},
            )

        return jax.value_and_grad(loss, has_aux=True)(params)

    return step


def step_inputs(model, batch_size: int) -> tuple:
    """Shapes of images, latents and the step's number."""
    side = model.encoder.image_size
    return (
        jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch_size, *model.latent_shape), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )

"""The class that a second stage starts from, with the learned absence of one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

normal_init = nn.initializers.normal(0.02)


class ClassEmbedding(nn.Module):
    """A row for each class and a last one, the null label, for none: [B] -> [B, width] float32.

    Without classes, `num_classes` 0, every label is the null label.

    Attributes:
      dropout: share of labels that training replaces by the null label, from the stream
        "label_dropout"; guidance leans on them.
    """

    num_classes: int
    width: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, labels: Int[Array, " B"], *, train: bool = False) -> Float[Array, "B width"]:
        table = self.param("embedding", normal_init, (self.num_classes + 1, self.width))
        if not self.num_classes:
            labels = jnp.zeros_like(labels)
        if train and self.dropout:
            key = self.make_rng("label_dropout")
            is_dropped = jax.random.bernoulli(key, self.dropout, labels.shape)
            labels = jnp.where(is_dropped, self.num_classes, labels)
        return table[labels]

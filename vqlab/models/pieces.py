"""A codec for images larger than its network takes: they are cut, and each piece is coded alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vqlab.models.codec import Codec
from vqlab.models.codings import Codings, Sent
from vqlab.ops.mesh import rearrange
from vqlab.ops.pixels import as_floats


class Pieces:
    """A codec of square images of `size` pixels, for images of whole pieces of that size.

    A code is [B, h, w, ...] of h x w pieces, and of each piece as many units are kept. What
    evaluators ask is here; everything else is the codec's own, of one piece.

    Raises:
      ValueError: the codec cannot take images of this size.
    """

    def __init__(self, codec: Codec, size: int, name: str = "size"):
        codec.check_image_size(size, name)
        self._codec, self._size = codec, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_codec"], name)

    def check_image_size(self, size: int, name: str) -> None:
        """See `Codec`."""
        if size % self._size:
            raise ValueError(f"{name}={size} is no multiple of pieces of {self._size} pixels")

    def check_images(self, images: Any) -> None:
        """See `Codec`."""
        for name, side in zip(("height", "width"), images.shape[1:3], strict=True):
            self.check_image_size(side, name)

    def encode(self, weights, images):
        """[B, h, w, ...]; see `Codec`."""
        return self._together(images, self._codec.encode(weights, self._cut(images)))

    def decode(self, weights, code, num_kept, key, sampling=None):
        """See `Codec`."""
        made = self._codec.decode(weights, _apart(code), num_kept, key, sampling)
        return _joined(code, made)

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        """See `Codec`."""
        made = self._codec.decode_prefix(weights, _apart(code), num_kept, key, stand_in)
        return _joined(code, made)

    @property
    def stand_in(self):
        """The mean over an image's pieces; see `Codec`."""
        return self._mean_stand_in if self._codec.stand_in is not None else None

    def _mean_stand_in(self, weights, code):
        return _mean(code, self._codec.stand_in(weights, _apart(code)))

    def losses(self, weights, images, code, nums_kept, key):
        """Means over an image's pieces; see `Codec`."""
        losses = self._codec.losses(weights, self._cut(images), _apart(code), nums_kept, key)
        return _mean(code, losses.T).T

    def features(self, weights, code):
        """Means over an image's pieces; see `Codec`."""
        return _mean(code, self._codec.features(weights, _apart(code)))

    def codings(self, steps=()):
        """Those of the pieces, whose bits add up; see `Codec`."""
        own = self._codec.codings(steps)
        # One function for all ways that differ in their step, so that one program serves them.
        sends = {way.encode: self._sender(way.encode) for way in own.ways}
        ways = tuple(way._replace(encode=sends[way.encode]) for way in own.ways)

        def prepare(weights, images):
            return self._together(images, own.prepare(weights, self._cut(images)))

        def spread(weights, prepared):
            return _mean(prepared, own.spread(weights, _apart(prepared)))

        return Codings(prepare, ways, spread if own.spread is not None else None)

    def _sender(self, send):
        def encode(weights, prepared, key, step) -> Sent:
            sent = send(weights, _apart(prepared), key, step)
            code, symbols = (
                None if x is None else _as(prepared, x) for x in (sent.code, sent.symbols)
            )
            bits = None if sent.bits is None else jnp.sum(_as(prepared, sent.bits), axis=(1, 2))
            return Sent(code, symbols, bits)

        return encode

    def bits(self, height, width):
        """Of all pieces."""
        bits = self._codec.bits(self._size, self._size)
        return None if bits is None else bits * (height // self._size) * (width // self._size)

    def _cut(self, images):
        size = self._size
        return rearrange(as_floats(images), "b (h p) (w q) c -> (b h w) p q c", p=size, q=size)

    def _together(self, images, code):
        """What is made of the pieces of these images, image by image."""
        height, width = (side // self._size for side in images.shape[1:3])
        return rearrange(code, "(b h w) ... -> b h w ...", h=height, w=width)


def _apart(code):
    """A code [B, h, w, ...] piece by piece, [B*h*w, ...]."""
    return rearrange(code, "b h w ... -> (b h w) ...")


def _as(code, made):
    """What is made of the pieces of a code, [B*h*w, ...], as [B, h, w, ...]."""
    return rearrange(made, "(b h w) ... -> b h w ...", h=code.shape[1], w=code.shape[2])


def _mean(code, made):
    """The same, averaged over the pieces: [B, ...]."""
    return jnp.mean(_as(code, made), axis=(1, 2))


def _joined(code, images):
    """Pictures of the pieces of a code as whole images."""
    height, width = code.shape[1:3]
    return rearrange(images, "(b h w) p q c -> b (h p) (w q) c", h=height, w=width)

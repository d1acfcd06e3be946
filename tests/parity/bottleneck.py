"""A bottleneck alone beside a released class: one case of a file, its passes and gradients."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.report import GRADIENT_LIMIT, OUTPUT_LIMIT, Report, Unsupported
from vqlab.nn.quantized import Quantized

LAYERS = ("project_in", "project_out")
RNGS = {"reseed": jax.random.key(0), "mask": jax.random.key(1)}


class Pass(NamedTuple):
    """The objective, what the bottleneck returned, its new running sums, what its indices look up,
    and the gradients by parameters and by x."""

    value: np.ndarray
    quantized: Quantized
    sums: Mapping
    codes: np.ndarray
    gradients: tuple


class Case:
    """A case and the module that stands for it.

    Its objective is sum(latents * cotangent) + loss(losses), where `loss` is the sum of all unless
    given.

    Released arrays have channels first where `is_image`, `to_own` and `to_theirs` move them. Where
    the file says that the released code itself is further than half a limit from its own float64,
    twice that distance is the limit.
    """

    def __init__(
        self,
        report: Report,
        config: Mapping,
        name: str,
        module: nn.Module,
        *,
        is_image: bool,
        loss: Callable[[Mapping], Any] | None = None,
    ):
        self.report, self.name, self.module, self.is_image = report, name, module, is_image
        self._programs: dict[bool, Callable] = {}
        self._loss = loss or (lambda losses: sum(values.sum() for values in losses.values()))
        self._own_errors = config.get("f32_vs_f64_max_abs_diff", {})
        example = self.to_own(self.input("x")[0])
        self.variables = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(lambda x: dict(module.init(jax.random.key(0), x, train=False)), example),
        )
        self.variables.setdefault("params", {})
        self.variables["params"] |= linear_layers(report, f"w/{name}/")

    def input(self, key: str) -> np.ndarray:
        """in/NAME/KEY with an axis of steps in front."""
        return self.report.take(f"in/{self.name}/{key}")

    def weight(self, key: str) -> np.ndarray:
        """w/NAME/KEY."""
        return np.asarray(self.report.take(f"w/{self.name}/{key}"))

    def to_own(self, array) -> np.ndarray:
        """Channels last."""
        return np.moveaxis(array, 1, -1) if self.is_image else np.asarray(array)

    def to_theirs(self, array) -> np.ndarray:
        """Undoes `to_own`."""
        return np.moveaxis(np.asarray(array), -1, 1) if self.is_image else np.asarray(array)

    def run(self, train: bool, x: np.ndarray, cotangent: np.ndarray, variables=None) -> Pass:
        """A pass in training or evaluation, with these variables or the file's."""
        variables = variables or self.variables
        if train not in self._programs:
            objective = functools.partial(self._objective, train)
            self._programs[train] = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
        outputs = jax.device_get(
            self._programs[train](variables["params"], x, variables, cotangent)
        )
        (value, (quantized, sums, codes)), gradients = outputs
        return Pass(value, quantized, sums, codes, gradients)

    def _objective(self, train, params, x, variables, cotangent):
        variables = variables | {"params": params}
        collections = [name for name in variables if name != "params"]
        quantized, state = self.module.apply(
            variables, x, train=train, rngs=RNGS, mutable=collections
        )
        codes = self.module.apply(variables, quantized.indices, method="lookup")
        value = jnp.sum(quantized.latents * cotangent) + self._loss(quantized.losses)
        # What no file holds need not be compiled.
        stats = {name: x for name, x in quantized.stats.items() if name.endswith("entropy")}
        sums = {name: x for name, x in state["codebook_stats"].items() if name.startswith("ema")}
        return value, (quantized._replace(stats=stats), sums, codes)

    def methods(self, argument, *names: str) -> tuple:
        """What methods of the module say of `argument` with the file's variables."""

        def call(argument):
            return tuple(self.module.apply(self.variables, argument, method=m) for m in names)

        return jax.device_get(jax.jit(call)(argument))

    def check_indices(self, key: str, indices) -> None:
        """Compares out/NAME/KEY, of whatever shape."""
        expected = self.report.take(f"out/{self.name}/{key}")
        self.report.equal(f"out/{self.name}/{key}", np.asarray(indices).reshape(expected.shape))

    def check_latents(self, key: str, latents, limit: float = OUTPUT_LIMIT) -> None:
        """Compares out/NAME/KEY in the released layout."""
        self.check_numbers(key, self.to_theirs(latents), limit)

    def check_numbers(self, key: str, values, limit: float = OUTPUT_LIMIT, note: str = "") -> None:
        """Compares out/NAME/KEY."""
        full = f"out/{self.name}/{key}"
        scale = np.max(np.abs(self.report.arrays[full]), initial=0.0) or 1.0
        own_error = self._own_errors.get(f"{self.name}/{key}", 0.0) / scale
        self.report.close(full, values, max(limit, 2 * own_error), note)

    def check_gradients(self, prefix: str, gradients, names: Mapping[str, Callable]) -> None:
        """Gradients by x, by linear layers, and by `names`: released name -> its gradient."""
        params, grad_x = gradients
        self.check_latents(f"{prefix}grad_x", grad_x, GRADIENT_LIMIT)
        found = {
            f"{layer}.{theirs}": (lambda tree, layer=layer, own=own: tree[layer][own].T)
            for layer in LAYERS
            if layer in params
            for theirs, own in (("weight", "kernel"), ("bias", "bias"))
        }
        for name, take in (found | dict(names)).items():
            full = f"out/{self.name}/{prefix}grad/{name}"
            if full in self.report.arrays:  # released code has none where nothing arrives
                self.check_numbers(f"{prefix}grad/{name}", take(params), GRADIENT_LIMIT)
            elif np.any(np.asarray(take(params))):
                self.report.add(full, np.inf, 0, "a gradient that the released code has not")


def linear_layers(report: Report, prefix: str) -> dict:
    """Parameters of the linear maps in front and behind, those that the file has."""
    return {
        layer: {
            "kernel": report.take(f"{prefix}{layer}.weight").T,
            "bias": report.take(f"{prefix}{layer}.bias"),
        }
        for layer in LAYERS
        if f"{prefix}{layer}.weight" in report.arrays
    }


class Options:
    """A case's arguments; `finish` refuses those that nothing took."""

    def __init__(self, options: Mapping[str, Any]):
        self._left = dict(options)

    def take(self, name: str, default: Any = None) -> Any:
        """An argument, or the released class's default."""
        return self._left.pop(name, default)

    def expect(self, **defaults: Any) -> None:
        """Raises Unsupported where one of these has another value."""
        for name, value in defaults.items():
            if (given := self.take(name, value)) != value:
                raise Unsupported(f"{name}={given!r} is not supported, only {value!r}")

    def finish(self) -> None:
        """Raises Unsupported for arguments that are left."""
        if self._left:
            raise Unsupported(f"not supported: {sorted(self._left)}")

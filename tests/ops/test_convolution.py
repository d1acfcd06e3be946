"""The 3x3 convolution whose kernel's gradient is nine products on CPUs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vqlab.nn.layers import conv
from vqlab.ops import convolution
from vqlab.ops.convolution import conv3x3

X, KERNEL = (2, 5, 4, 3), (3, 3, 3, 4)
LARGE = (1, 64, 64, 32), (3, 3, 32, 80)


@pytest.fixture
def everything_is_large(monkeypatch):
    for name in ("MIN_POSITIONS", "MIN_CHANNELS", "MIN_FEATURES"):
        monkeypatch.setattr(convolution, name, 1)


def xla_conv(x, kernel, precision=None):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


def arrays(*shapes, dtype="float32"):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def gradients(function, x, kernel):
    return jax.grad(lambda x, kernel: jnp.mean(function(x, kernel) ** 3), (0, 1))(x, kernel)


def assert_same(ours, plain):
    """Float32 that sums in another order."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * np.abs(other).max())


@pytest.mark.parametrize("dtype", convolution.DTYPES)
def test_the_kernels_gradient_is_no_less_exact_than_xlas(dtype):
    (_, height, width, channels), (*_, features) = LARGE
    x, kernel, g = arrays(*LARGE, (1, height, width, features), dtype=dtype)
    padded = np.pad(np.float64(x[0]), ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    rows = np.float64(g).reshape(-1, features)
    exact = np.stack([shift.reshape(-1, channels).T @ rows for shift in shifts])

    def error(function):
        gradient = jax.jit(lambda x, kernel, g: jax.vjp(function, x, kernel)[1](g)[1])(x, kernel, g)
        assert gradient.dtype == dtype
        return np.std(np.float64(gradient).reshape(exact.shape) - exact) / np.std(exact)

    assert error(conv3x3) <= 1.01 * error(xla_conv) <= jnp.finfo(dtype).eps * 16


def test_the_forward_pass_and_the_inputs_gradient_are_xlas(everything_is_large):
    @functools.partial(jax.jit, static_argnums=0)
    def both(f, x, kernel):
        y, vjp = jax.vjp(f, x, kernel)
        return y, vjp(y)[0]

    args = arrays(X, KERNEL)
    assert_same(both(conv3x3, *args), both(xla_conv, *args))


def penalty(function, x, kernel):
    """As of R1: it is differentiated again."""
    return sum(jnp.sum(gradient**2) for gradient in gradients(function, x, kernel))


SECOND_ORDER = {
    "reverse over reverse": lambda f, *args: jax.grad(penalty, (1, 2))(f, *args),
    "forward over reverse": lambda f, *args: jax.jvp(functools.partial(gradients, f), args, args),
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_gradients_of_gradients(everything_is_large, name):
    second = jax.jit(SECOND_ORDER[name], static_argnums=0)
    args = arrays(X, KERNEL)
    assert_same(second(conv3x3, *args), second(xla_conv, *args))


def vmapped(f, x, kernel):
    return jax.tree.map(
        lambda gradient: jnp.mean(gradient, 0),
        jax.vmap(lambda x: gradients(f, x[None], kernel)[1])(x),
    )


def scanned(f, x, kernel):
    def step(kernel, x):
        return kernel - gradients(f, x[None], kernel)[1], None

    return jax.lax.scan(step, kernel, x)[0]


def recomputed(f, x, kernel):
    policy = jax.checkpoint_policies.nothing_saveable
    return gradients(jax.checkpoint(f, policy=policy), x, kernel)


def mapped(f, x, kernel):
    """The kernel is the same on all devices, the images are not."""
    split = PartitionSpec("data")
    return jax.shard_map(
        lambda x, kernel: jax.lax.pmean(gradients(f, x, kernel)[1], "data"),
        mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(split, PartitionSpec()),
        out_specs=PartitionSpec(),
    )(x, kernel)


@pytest.mark.parametrize("transform", [vmapped, scanned, recomputed, mapped])
def test_gradients_inside_a_transform(everything_is_large, transform):
    args = arrays(X, KERNEL)
    transformed = jax.jit(transform, static_argnums=0)
    assert_same(transformed(conv3x3, *args), transformed(xla_conv, *args))


def lowered(function, platform, shapes=LARGE):
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    traced = jax.jit(functools.partial(gradients, function)).trace(*args)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def operations(text):
    """Every operation with its attributes and types, without names and the choice of platform."""
    lines = [re.sub(r"[%@][\w#]+", "", line).strip() for line in text.splitlines()]
    chooses = re.compile(r"^\}|^$|return|stablehlo\.case|tensor<i32>")
    return sorted(line for line in lines if not chooses.search(line))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_programs_of_accelerators_are_those_of_xla(platform):
    ours, plain = (operations(lowered(f, platform)) for f in (conv3x3, xla_conv))
    assert ours == plain
    assert sum("stablehlo.convolution" in line for line in ours) == 3


def test_on_cpus_large_kernels_take_nine_products():
    text = lowered(conv3x3, "cpu")
    assert text.count("stablehlo.convolution") == 2  # the forward pass and the inputs' gradient
    assert text.count("stablehlo.while") == text.count("stablehlo.dot_general") == 1


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 63, 64, 32), (3, 3, 32, 80)),
        ((1, 64, 64, 31), (3, 3, 31, 80)),
        ((1, 64, 64, 32), (3, 3, 32, 64)),
    ],
)
def test_small_ones_are_xlas(shapes):
    assert lowered(conv3x3, "cpu", shapes) == lowered(xla_conv, "cpu", shapes)


def test_copies_do_not_live_at_once():
    """Of three convolutions in a row the gradients take no more memory than XLA's."""

    def temporaries(function):
        def loss(kernels, x):
            for kernel in kernels:
                x = function(x, kernel)
            return jnp.sum(x**2)

        kernels = [jax.ShapeDtypeStruct((3, 3, 80, 80), "float32")] * 3
        x = jax.ShapeDtypeStruct((1, 64, 64, 80), "float32")
        compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(conv3x3) <= 1.02 * temporaries(xla_conv)


def test_layers_take_it():
    layer = conv(80, 3)
    x = jax.ShapeDtypeStruct(LARGE[0], "float32")
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    sizes = {name: x.shape for name, x in variables["params"].items()}
    assert sizes == {"kernel": LARGE[1], "bias": (80,)}
    loss = jax.jit(jax.grad(lambda variables, x: jnp.sum(layer.apply(variables, x))))
    assert loss.lower(variables, x).as_text().count("stablehlo.dot_general") == 1

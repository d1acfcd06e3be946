"""FLOPs counted from jaxprs, against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from vqlab.planning import chips
from vqlab.planning.flops import Flops, traced_flops, traced_traffic


def shape(*dims, dtype="float32"):
    return jax.ShapeDtypeStruct(dims, dtype)


def count(function, *shapes):
    return traced_flops(jax.jit(function).trace(*shapes))


DOT = 2 * 5 * 7 * 3


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        ("bfloat16", None, Flops(bf16=DOT)),
        ("float32", None, Flops(default=DOT)),
        ("float32", "highest", Flops(float32=DOT)),
    ],
)
def test_a_dot_is_two_operations_a_product(dtype, precision, expected):
    dot = functools.partial(jnp.dot, precision=precision)
    assert count(dot, shape(5, 7, dtype=dtype), shape(7, 3, dtype=dtype)) == expected


def test_batches_of_dots():
    product = functools.partial(jnp.einsum, "bij,bjk->bik")
    assert count(product, shape(4, 5, 7), shape(4, 7, 3)).total == 4 * DOT


def convolve(x, kernel, **arguments):
    names = ("NHWC", "HWIO", "NHWC")
    arguments = {"window_strides": (1, 1), "padding": "SAME"} | arguments
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=names, **arguments)


def test_a_convolution_is_two_operations_a_tap():
    image = shape(2, 8, 8, 6)
    assert count(convolve, image, shape(3, 3, 6, 10)).total == 2 * (2 * 8 * 8 * 10) * (3 * 3 * 6)
    strided = functools.partial(convolve, window_strides=(2, 2))
    assert count(strided, image, shape(3, 3, 6, 10)).total == 2 * (2 * 4 * 4 * 10) * (3 * 3 * 6)
    grouped = functools.partial(convolve, feature_group_count=3)
    assert count(grouped, image, shape(3, 3, 2, 12)).total == 2 * (2 * 8 * 8 * 12) * (3 * 3 * 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_both_gradients_of_a_convolution_cost_what_it_costs(stride):
    def loss(x, kernel):
        return convolve(x, kernel, window_strides=(stride, stride)).sum()

    shapes = shape(2, 8, 8, 6), shape(3, 3, 6, 10)
    once = count(loss, *shapes).total
    assert count(jax.value_and_grad(loss, (0, 1)), *shapes).total == 3 * once


def test_a_gradient_by_both_factors_is_three_dots():
    def loss(a, b):
        return jnp.sum(jnp.sin(a @ b))

    assert count(jax.grad(loss, (0, 1)), shape(5, 7), shape(7, 3)).total == 3 * DOT
    assert count(jax.grad(loss), shape(5, 7), shape(7, 3)).total == 2 * DOT


def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def test_a_scan_counts_every_turn():
    assert count(layers, shape(5, 7), shape(11, 7, 7)).total == 11 * 2 * 5 * 7 * 7
    gradient = jax.grad(lambda x, w: layers(x, w).sum(), (0, 1))
    assert count(gradient, shape(5, 7), shape(11, 7, 7)).total == 3 * 11 * 2 * 5 * 7 * 7


def test_recomputation_counts():
    def two_layers(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w)

    def step(function):
        return jax.value_and_grad(lambda x, w: function(x, w).sum(), (0, 1))

    square, shapes = 2 * 7 * 7 * 7, (shape(7, 7), shape(7, 7))
    assert count(step(two_layers), *shapes).total == (2 + 4) * square
    assert count(step(jax.checkpoint(two_layers)), *shapes).total == (2 + 2 + 4) * square


def test_what_no_output_needs_is_free_and_the_dearest_branch_counts():
    def unused(a, b):
        return a + 1, (a @ b, a @ b)[0] * 0 + 1

    assert count(lambda a, b: unused(a, b)[0], shape(7, 7), shape(7, 7)).total == 0

    def branches(a, flag):
        return jax.lax.cond(flag, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert count(branches, shape(7, 7), shape(dtype="bool")).total == 2 * 2 * 7**3


def test_products_move_their_operands_and_results():
    traced = jax.jit(lambda x, w: jnp.sin(layers(x, w)) + 1).trace(shape(5, 7), shape(11, 7, 7))
    assert traced_traffic(traced) == 11 * 4 * (5 * 7 + 7 * 7 + 5 * 7)


def test_custom_gradients_and_inner_jits_are_entered():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda ab, g: (g @ ab[1].T, ab[0].T @ g))
    assert count(jax.jit(product), shape(5, 7), shape(7, 3)).total == DOT
    gradient = jax.grad(lambda a, b: jnp.sum(product(a, b) ** 2), (0, 1))
    assert count(gradient, shape(5, 7), shape(7, 3)).total == 3 * DOT


def test_seconds_at_the_peak():
    v5e = chips.find_tpu("v5e")
    flops = Flops(bf16=197e12, default=197e12, float32=197e12)
    assert flops.seconds(v5e) == pytest.approx(1 + 1 + 6)

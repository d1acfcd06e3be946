import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.filled import filled
from vqlab.models.vit import ConceptEncoder

SIZES = dict(
    image_size=32,
    patch_size=8,
    width=32,
    depth=2,
    num_heads=4,
    num_concepts=6,
    concept_dim=8,
)
NUM_VISIBLE = 1 + 16
IMAGES = tiny.images(2)


def with_later_concepts_changed(variables, first):
    """The learned tokens and positions of concepts `first`, ... are other numbers."""
    params = dict(variables["params"])
    params["concept_tokens"] = params["concept_tokens"].at[first:].add(1.0)
    params["position_embed"] = params["position_embed"].at[NUM_VISIBLE + first :].multiply(-2.0)
    return {"params": params}


def hidden(model, variables):
    """Every block's output [L,B,N,D]."""

    @jax.jit
    def run(variables):
        _, state = model.apply(
            variables, IMAGES, capture_intermediates=lambda module, _: module.name == "blocks"
        )
        return state["intermediates"]["blocks"]["__call__"][0]

    return run(variables)


@pytest.fixture(scope="module")
def variables():
    return filled(ConceptEncoder(**SIZES).init, IMAGES)


@pytest.fixture(scope="module")
def encode():
    return jax.jit(ConceptEncoder(**SIZES).apply)


def test_concepts_have_mean_0_and_unbiased_variance_1(variables, encode):
    concepts = encode(variables, IMAGES)
    assert concepts.shape == (2, 6, 8) and concepts.dtype == jnp.float32
    np.testing.assert_allclose(concepts.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(concepts, axis=-1, ddof=1), 1, rtol=1e-5)


def test_tokens_and_kernels_start_with_the_given_deviations():
    model = ConceptEncoder(**SIZES | {"width": 256}, token_deviation=0.4, kernel_deviation=0.1)
    params = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]
    for name in ("cls_token", "concept_tokens", "position_embed"):
        assert np.std(params[name]) == pytest.approx(0.4, rel=0.15)
    for part, name in (("attention", "qkv"), ("attention", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        kernel = params["blocks"][part][name]["kernel"]
        assert np.std(kernel) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("first", [1, 4])
def test_no_concept_depends_on_a_later_one(variables, encode, first):
    before = encode(variables, IMAGES)
    after = encode(with_later_concepts_changed(variables, first), IMAGES)
    np.testing.assert_array_equal(before[:, :first], after[:, :first])
    assert np.abs(before[:, first:] - after[:, first:]).max() > 0.01


def test_class_token_and_patches_see_concepts_only_without_causality(variables):
    changed = with_later_concepts_changed(variables, 0)
    for is_causal in (True, False):
        model = ConceptEncoder(**SIZES, is_causal=is_causal)
        before, after = (hidden(model, v)[:, :, :NUM_VISIBLE] for v in (variables, changed))
        assert before.shape == (2, 2, NUM_VISIBLE, 32)
        assert np.array_equal(before, after) == is_causal


def test_fewer_concepts_are_the_first_of_more(variables, encode):
    params = dict(variables["params"])
    params["concept_tokens"] = params["concept_tokens"][:4]
    params["position_embed"] = params["position_embed"][: NUM_VISIBLE + 4]
    model = ConceptEncoder(**SIZES | {"num_concepts": 4})
    fewer, more = jax.jit(model.apply)({"params": params}, IMAGES), encode(variables, IMAGES)
    np.testing.assert_allclose(fewer, more[:, :4], atol=1e-5)


def test_other_image_sizes_interpolate_the_positions_of_patches_alone(variables):
    """1.25 on the line 0, 1, 2, 3 is 1.296875 for the cubic with a = -0.75."""
    params = dict(variables["params"])
    params["patch_embed"] = jax.tree.map(jnp.zeros_like, params["patch_embed"])
    line = jnp.tile(jnp.arange(4.0), 4)[:, None] * jnp.ones(32)  # its column
    params["position_embed"] = params["position_embed"].at[1:NUM_VISIBLE].set(line)

    @jax.jit
    def tokens(images):
        _, state = ConceptEncoder(**SIZES).apply(
            {"params": params},
            images,
            capture_intermediates=lambda _, method: method == "_tokens",
        )
        return state["intermediates"]["_tokens"][0]

    native, wide = tokens(jnp.zeros((1, 32, 32, 3))), tokens(jnp.zeros((1, 32, 64, 3)))
    np.testing.assert_array_equal(native[0, 1:17, 0], line[:, 0])
    np.testing.assert_array_equal(wide[:, 0], native[:, 0])
    np.testing.assert_array_equal(wide[:, -6:], native[:, -6:])
    columns = wide[0, 1:-6, 0].reshape(4, 8)
    np.testing.assert_allclose(columns[:, 3:5], [[1.296875, 1.703125]] * 4, rtol=1e-5)


def test_training_drops_paths_of_single_samples_and_evaluation_does_not(variables, encode):
    images = jnp.tile(IMAGES[:1], (8, 1, 1, 1))

    @jax.jit
    def train(seed):
        model = ConceptEncoder(**SIZES, drop_path=0.5)
        rngs = {"drop_path": jax.random.key(seed)}
        return model.apply(variables, images, train=True, rngs=rngs)

    # Of two layers the last drops either branch: four kinds of samples.
    kinds = {sample.tobytes() for seed in range(8) for sample in np.round(train(seed), 3)}
    assert len(kinds) == 4
    evaluated = encode(variables, IMAGES)
    undropped = jax.jit(ConceptEncoder(**SIZES, drop_path=0.0).apply, static_argnames="train")
    np.testing.assert_array_equal(undropped(variables, IMAGES, train=True), evaluated)


def test_recomputing_draws_the_same_paths_and_changes_no_gradient(variables):
    def gradient(remat):
        model = ConceptEncoder(**SIZES, drop_path=0.5, remat=remat)
        rngs = {"drop_path": jax.random.key(0)}
        weights = jnp.arange(8.0)
        return jax.jit(
            jax.grad(lambda v: jnp.sum(model.apply(v, IMAGES, train=True, rngs=rngs) * weights))
        )(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + 1e-6),
        gradient(False),
        gradient(True),
    )


def test_bfloat16_activations_give_float32_concepts_nearby(variables, encode):
    rounded = jax.jit(ConceptEncoder(**SIZES, dtype="bfloat16").apply)(variables, IMAGES)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, encode(variables, IMAGES), atol=0.1)


def test_branches_of_bfloat16_add_up_in_float32(variables):
    """What the scan over blocks carries, as in the released code under autocast."""
    program = jax.make_jaxpr(ConceptEncoder(**SIZES, dtype="bfloat16").apply)(variables, IMAGES)
    [scan] = [step for step in program.eqns if step.primitive.name == "scan"]
    carried = [x.aval for x in scan.outvars if x.aval.shape == (2, NUM_VISIBLE + 6, 32)]
    assert [x.dtype for x in carried] == [jnp.float32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "width 32 does not split into 5 heads"),
        ({"patch_size": 10}, "image_size=32 is no multiple of patch_size=10"),
        ({"drop_path": 1.0}, "drop_path=1.0 is out of range: choose 0 <= p < 1"),
        ({"concept_dim": 1}, "concept_dim=1: a concept needs 2 or more numbers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ConceptEncoder(**SIZES | change).init, jax.random.key(0), IMAGES)


def test_images_that_are_no_multiple_of_a_patch_are_refused():
    with pytest.raises(ValueError, match="images of 32x36: both sides must be multiples of 8"):
        jax.eval_shape(ConceptEncoder(**SIZES).init, jax.random.key(0), jnp.zeros((1, 32, 36, 3)))

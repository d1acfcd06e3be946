"""A Semanticist whose concepts are codewords, from its config to a generator of its indices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vqlab
from configs import _bottlenecks, _semanticist, semanticist_demo, semanticist_l
from tests import tiny, tiny_generator
from tests.filled import filled
from tests.test_training_run import run_until
from vqlab import convert, data, models
from vqlab.evaluation.symbols import SymbolCounts
from vqlab.generation import LoadedGenerator
from vqlab.models.codec import Weights
from vqlab.ops import nesting
from vqlab.ops import rng as rng_streams
from vqlab.runs import build, estimate, precompute, trainer
from vqlab.runs.results import read_results
from vqlab.training import sharding
from vqlab.training.objectives.concept_diffusion import STREAMS, ConceptObjective
from vqlab.training.objectives.index_prediction import IndexObjective
from vqlab.training.step import TrainState, make_train_step

GROUPS, SIZE, CONCEPTS, STEPS, BATCH = 2, 16, 4, 2, 8
NODE = tiny.semanticist_node(quantizer=_bottlenecks.grouped(4, SIZE, GROUPS).to_dict())


def config_of(**changes):
    """Two steps, each image with a prefix of its own."""
    config = tiny.semanticist_config().copy_and_resolve_references().unlock()
    _semanticist.quantize(config, _bottlenecks.grouped(4, SIZE, GROUPS))
    config.evals = {name: config.evals[name] for name in ("reconstruction", "rate_distortion")}
    config.num_steps, config.objective.nested_start = STEPS, 0
    config.update_from_flattened_dict(changes)
    return config.lock()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, state on the host) of a finished run, which compiles for a minute."""
    workdir = tmp_path_factory.mktemp("quantized")
    training, state = run_until(config_of(), workdir, STEPS)
    with jax.set_mesh(training.mesh):
        trainer.finish(config_of(), workdir, training, state)
    training.run.close()
    return workdir, jax.device_get(state)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An exported folder with random weights, all of which matter."""
    path = tmp_path_factory.mktemp("random")
    tiny_generator.save(path, NODE, sampling={"num_steps": 2})
    return path


@pytest.fixture(scope="module")
def tokenizer(export):
    """The same, loaded."""
    return vqlab.load(export)


@pytest.mark.slow
def test_the_diffusion_loss_reaches_the_encoder_and_codebooks_count_what_is_kept():
    objective = ConceptObjective(models.build(NODE), null_share=0.2, quantizer_weight=0.0)
    batch = {"images": jnp.asarray(tiny.images(BATCH, 16))}
    params, variables = filled(lambda key: objective.init(key, batch))

    @jax.jit
    def run(params):
        def loss_of(params):
            losses, aux = objective(params, variables, {}, batch, rng=jax.random.key(0), step=0)
            return losses["tokenizer"], aux

        gradients, aux = jax.grad(loss_of, has_aux=True)(params)
        return gradients["tokenizer"], aux, objective.post_update(params, aux.update)

    gradients, aux, after = jax.device_get(run(params))
    # Straight through: the codewords themselves learn by the quantizer's losses alone.
    assert np.abs(gradients["encoder"]["to_concepts"]["kernel"]).max() > 0
    assert (gradients["quantizer"]["codebook"] == 0).all()
    kept = nesting.draw_num_kept(
        rng_streams.streams(jax.random.key(0), *STREAMS)["keep"],
        BATCH,
        CONCEPTS,
        is_nested=True,
        condition_dropout=0.1,
        null_share=0.2,
    )
    recent = aux.variables["tokenizer"]["codebook_stats"]["quantizer"]["recent_indices"]
    assert 0 < kept.sum() < BATCH * CONCEPTS and ((recent >= 0).sum(-1) == kept.sum()).all()
    assert aux.metrics.keys() >= {"mse", "vq", "commit", "usage", "perplexity", "dead"}
    before, after = (tree["tokenizer"]["quantizer"]["codebook"] for tree in (params, after))
    is_moved = np.asarray(before) != after
    np.testing.assert_array_equal(is_moved.any(-1), aux.update["reseed_keep"] < 1)


@pytest.mark.slow
def test_the_workdir_explains_itself(finished):
    results = read_results(finished[0])
    page = (finished[0] / "report.html").read_text()
    card = (finished[0] / "export" / "README.md").read_text()
    for text in (page, card):
        assert "MGVQ" in text and f"{GROUPS} x {SIZE}" in text and "num_concepts=4" in text
    # 4 concepts of 2 indices of 4 bits, on 16 x 16 pixels.
    for kept in (1, 2, 4):
        point = f"rate_distortion/first_{kept}/indices"
        assert results[f"{point}/fixed_bits_per_pixel"] == kept * GROUPS * 4 / 16**2
        psnr = results[f"reconstruction/first_{kept}/psnr"]
        assert results[f"{point}/psnr"] == pytest.approx(psnr, abs=1e-3)
    points = [f"rate_distortion/first_{kept}/indices" for kept in (1, 2, 4)]
    rates = [results[f"{point}/entropy_bits_per_pixel"] for point in points]
    assert rates[0] < rates[1] < rates[2] < CONCEPTS * GROUPS * 4 / 16**2
    assert rates[2] == pytest.approx(results["reconstruction/entropy_bits_per_pixel"], rel=1e-5)
    assert results["reconstruction/bits_per_pixel"] == CONCEPTS * GROUPS * 4 / 16**2


def test_a_prefix_costs_its_part_of_the_whole_code():
    counts = SymbolCounts(2, tables=(0, 0))
    counts.add(np.array([[1, 1], [1, 2]]))
    # The table's shares are 3/4 and 1/4.
    long, short = 2.0, -math.log2(3 / 4)
    np.testing.assert_allclose(counts.entropies(), [short, (short + long) / 2])
    assert counts.num_symbols == 4


def test_indices_of_any_prefix_decode_and_the_rest_changes_nothing(tokenizer):
    images = tiny.images(2, 16)
    indices = tokenizer.encode(images)
    assert indices.shape == (2, CONCEPTS, GROUPS) and indices.dtype == np.int32
    others = indices.copy()
    others[:, 2:] = (others[:, 2:] + 1) % SIZE
    two = tokenizer.decode(indices, num_concepts=2)
    np.testing.assert_array_equal(tokenizer.decode(others, num_concepts=2), two)
    assert np.isfinite(two).all() and two.shape == images.shape
    # Of each group a codeword of length 1, as the decoder reads it.
    vectors = tokenizer.lookup(indices).reshape(2, CONCEPTS, GROUPS, -1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert tokenizer.codec.bits(16, 16) == CONCEPTS * GROUPS * 4
    # Sent concept by concept, each group by a table of its own: a prefix is the first columns.
    (way,) = tokenizer.codec.codings().ways
    assert way.symbol_bits == (4.0,) * (CONCEPTS * GROUPS) and way.tables == (0, 1) * CONCEPTS
    sent = way.encode(None, jnp.asarray(indices), None, 0.0)
    np.testing.assert_array_equal(sent.symbols[:, : 2 * GROUPS], indices[:, :2].reshape(2, -1))
    for call, message in (
        (lambda: tokenizer.decode(indices, num_concepts=5), "num_concepts=5 .* choose 0..4"),
        (lambda: tokenizer.decode(indices, num_groups=1), "num_groups=1: .* counts concepts"),
        (lambda: tokenizer.decode(indices[:, :3]), r"indices \(2, 3, 2\) must be \[B, 4, 2\]"),
        (lambda: tokenizer.decode(indices + SIZE), r"this tokenizer's lie in \[0, 15\]"),
        (lambda: tokenizer.decode(indices / 2), "indices must be integers, not float64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
def test_records_hold_its_indices_and_workdir_and_export_are_the_same(finished, tmp_path):
    config, export = config_of(), finished[0] / "export"
    indices = [vqlab.load(path).encode(tiny.images(2, 16)) for path in (finished[0], export)]
    np.testing.assert_array_equal(*indices)
    assert estimate.trace_step(config, jax.devices()).batch["images"].shape == (8, 16, 16, 3)
    job = precompute.Job(
        "indices",
        precompute.build_encoder("indices", config, export, "float32"),
        sharding.make_mesh(1, 1, devices=jax.devices()[:1]),
        config,
        "train",
        tmp_path,
        data.CenterViews(16),
        batch_size=4,
        records_per_shard=4,
    )
    job.begin()
    job.write()
    records = data.RecordArrays(str(tmp_path), "train")
    assert records[0]["indices"].shape == (CONCEPTS, GROUPS)
    assert records.manifest.tokenizer["codebook_size"] == SIZE
    assert records.manifest.tokenizer["num_concepts"] == CONCEPTS
    with pytest.raises(ValueError, match="makes indices .* and no concepts"):
        precompute.build_encoder("concepts", config, export, "float32")


def test_an_index_transformer_learns_and_completes_its_codes(tokenizer):
    node = tiny_generator.index_node(tokenizer=NODE, image_size=16)
    objective = IndexObjective(models.build(node))
    assert objective.generator.grid == (1, CONCEPTS)
    frozen = {"tokenizer": tokenizer.weights.variables}
    images = tiny.images(2, 16)
    batch = {"indices": jnp.asarray(tokenizer.encode(images)), "labels": jnp.arange(2)}
    optimizers = {"generator": optax.sgd(0.1)}
    params, variables = filled(lambda key: objective.init(key, {"images": images}))
    opt_state = {"generator": optimizers["generator"].init(params["generator"])}
    state = TrainState(jnp.int32(0), params, variables, opt_state, {})
    train = jax.jit(make_train_step(objective, optimizers, seed=0))
    losses = []
    for _ in range(2):
        state, metrics = train(state, frozen, batch)
        losses.append(float(metrics["loss/generator"]))
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    weights = Weights({"params": state.params["generator"], **state.variables["generator"]}, frozen)
    generator = LoadedGenerator(node, weights, {"decoding": {"num_steps": 2}})
    drawn = generator.generate([0, 7], seed=1)
    assert drawn.shape == (2, 16, 16, 3) and np.isfinite(drawn).all()
    own = np.asarray(batch["indices"])
    np.testing.assert_array_equal(generator.complete(own, 0, [0, 7], seed=1), drawn)
    whole = generator.complete(own, CONCEPTS, [0, 7], seed=1)
    np.testing.assert_array_equal(generator.complete(own, CONCEPTS, [3, 4], seed=1), whole)
    assert not np.array_equal(whole, drawn)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (_bottlenecks.gaussian(4), "GaussianBottleneck has none"),
        (_bottlenecks.none(4), "are indices, and IdentityBottleneck has none: give another"),
        (_bottlenecks.grouped(4, 16, 3), "4 latent channels do not split into 3 groups"),
        (_bottlenecks.fsq((4, 4)), "input_channels are 2, the concepts' 4"),
    ],
)
def test_quantizers_that_do_not_fit_are_one_line_before_anything_compiles(node, message, tmp_path):
    config = config_of().copy_and_resolve_references().unlock()
    config.model.quantizer = node
    with pytest.raises(ValueError, match=message) as error:
        build.build_run(config.lock(), tmp_path)
    assert "\n" not in str(error.value)


def test_official_files_have_no_place_for_a_quantizer(export, tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert.main(["to-official", str(export), str(tmp_path / "out.safetensors")])
    error = capsys.readouterr().err
    assert "the released Semanticist has no tensor for 'params/quantizer/codebook'" in error
    assert len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_configs_are_quantized_by_a_word():
    large = semanticist_l.get_config("quantized").model
    assert models.build(large).codec().bits(256, 256) == 256 * 4 * 13
    assert models.build(semanticist_demo.get_config("quantized").model).codec().units.total == 16
    assert "quantizer" not in semanticist_l.get_config("").model

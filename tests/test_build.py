"""Settings that cannot work are named before anything compiles; configs trace at full size."""

import contextlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from clu import parameter_overview
from PIL import Image

from benchmarks import train_step
from configs import (
    _common,
    kl_vae_f16,
    mgvq_demo,
    mgvq_digits,
    mgvq_f8,
    mgvq_f16,
    mgvq_f32,
    mgvq_gpt_b,
    mgvq_gpt_digits,
    mgvq_gpt_l,
    mgvq_gpt_xl,
    mgvq_gpt_xxl,
    semanticist_demo,
    semanticist_digits,
    semanticist_gpt_digits,
    semanticist_gpt_l,
    semanticist_l,
    semanticist_xl,
)
from configs.studies import beat_vae
from tests import tiny
from tests.data import small_records
from vqlab import data, models
from vqlab.runs import build, parts, train_state
from vqlab.runs.studies import KINDS
from vqlab.runs.studies.arms import choose_jobs, read_arms
from vqlab.training.step import Stored

PUBLISHED = {"f8": mgvq_f8, "f16": mgvq_f16, "f32": mgvq_f32}
DIGITS = ((mgvq_digits, mgvq_gpt_digits), (semanticist_digits, semanticist_gpt_digits))
SECOND_STAGES = (mgvq_gpt_b, mgvq_gpt_l, mgvq_gpt_xl, mgvq_gpt_xxl, semanticist_gpt_l)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size=12 does not divide over 8 devices"),
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"image_size": 36}, "image_size=36 is no multiple of the model's stride 8"),
        ({"model.name": "tokeniser"}, "unknown module 'tokeniser'; choose from"),
        ({"model.quantizer.num_groups": 3}, "8 latent channels do not split into 3 groups"),
        ({"mesh.fsdp": 3}, "does not fit 8 devices"),
        ({"objective.lpips_weight": 1.0}, "needs the weights of VGG-16"),
        ({"objective.lpips_weights": "/nowhere/vgg.pth"}, "/nowhere/vgg.pth"),
        ({"objective.reconstruction": "huber"}, "unknown reconstruction loss 'huber'"),
        ({"optimizer.tokenizer.name": "lion"}, "unknown optimizer 'lion'"),
        ({"data.name": "imagenet"}, "unknown data source 'imagenet'"),
        ({"data.name": "folder", "data.path": "/nowhere"}, "/nowhere"),
        ({"data.decoding.alpha": "black"}, "alpha is 'black'; choose from drop, white"),
        ({"evals.reconstruction.image_size": 30}, "evals.reconstruction.image_size=30"),
        ({"evals.reconstruction.image_size": 8}, "image_size=8 is too small .*: at least 11"),
        ({"evals.reconstruction.name": "fid"}, "unknown evaluator 'fid'; choose from recon"),
        ({"num_steps": -1}, "num_steps=-1 is out of range: at least 0"),
        ({"seed": 2**32 + 5}, "seed=4294967301 is out of range: choose 0..4294967295"),
        ({"init_from": "/nowhere"}, "/nowhere is no workdir"),
    ],
)
def test_wrong_settings_are_named(changes, message, tmp_path):
    config = tiny.config()
    config.unlock().update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build.build_run(config, tmp_path)


def test_codes_stand_for_images_where_the_objective_says_so(tmp_path):
    small_records.write(tmp_path / "train", **small_records.BARE)
    config = tiny.config().unlock()
    config.data.update(name="records", path=str(tmp_path), validation_split="train")
    config.image_size = small_records.SIZE
    objective = SimpleNamespace(
        inputs=("images", "labels"), stored={"indices": Stored("tokenizer", "int32", "images")}
    )
    mesh = parts.build_mesh(config)
    with pytest.raises(ValueError, match="hold no images"):
        parts.build_source(config.data, "train")
    source = parts.build_source(config.data, "train", parts.in_place_of_images(objective))
    with contextlib.closing(parts.build_batches(config, source, mesh)) as batches:
        batch = next(batches)
    shapes = parts.batch_shapes(config, objective, source.fields)
    assert set(shapes) == {"labels", "indices"}
    for name, shape in shapes.items():
        assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)
    assert set(parts.batch_shapes(config, objective, {})) == {"images", "labels"}


def test_a_missing_data_set_is_explained_in_three_lines(tmp_path):
    config = tiny.config().unlock()
    config.data.update(name="tfds", data_dir=str(tmp_path))
    with pytest.raises(ValueError) as error:
        parts.build_source(config.data, "train")
    assert len(str(error.value).splitlines()) == 3
    assert "imagenet2012" in str(error.value) and "--config.data.name=folder" in str(error.value)


def test_decoding_is_the_config_s_and_the_default_in_workdirs_from_before_it(tmp_path):
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    node = _common.imagenet()
    node.update(name="folder", path=str(tmp_path))
    assert parts.build_source(node, "train").decoding == data.Decoding()  # the values that are said
    node.decoding.alpha = "white"
    assert parts.build_source(node, "train").decoding == data.Decoding(alpha="white")
    del node.decoding["max_pixels"], node.decoding["alpha"]
    assert parts.build_source(node, "train").decoding == data.Decoding()
    del node["decoding"]
    assert parts.build_source(node, "train").decoding == data.Decoding()


@pytest.mark.parametrize(
    ("variant", "argument"), [("f8", ""), ("f16", "groups=8"), ("f32", "finetune")]
)
def test_published_configs_trace_at_full_size(variant, argument):
    config = PUBLISHED[variant].get_config(argument).copy_and_resolve_references().unlock()
    config.objective.lpips_weight = 0.0
    mesh = parts.build_mesh(config)
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)
    state, _ = train_state.place_state(config, objective, optimizers, mesh)
    step = train_state.build_train_step(config, objective, optimizers, state, mesh)
    images = jax.ShapeDtypeStruct((config.batch_size, 256, 256, 3), "uint8")
    with jax.set_mesh(mesh):
        after, metrics = jax.eval_shape(step, state, {}, {"images": images})
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert metrics["usage"].shape == (config.model.quantizer.num_groups,)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("vq16384", 14), ("fsq", np.log2(15_360)), ("lfq", 18), ("bsq", 18), ("vae", None)],
)
def test_published_bottlenecks_fit_every_backbone(name, bits):
    for module in PUBLISHED.values():
        config = module.get_config(f"bottleneck={name}")
        last = config.model.encoder.widths[-1]
        assert last % config.model.encoder.latent_channels == 0
    tokenizer = models.build(mgvq_f16.get_config(f"bottleneck={name}").model)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    made = jax.eval_shape(tokenizer.init_with_output, jax.random.key(0), images)[0]
    assert made.images.shape == images.shape
    of_position = tokenizer.codec().bits(16, 16)
    assert of_position == (bits and pytest.approx(bits))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("bottleneck=rvq", "unknown bottleneck 'rvq'; choose from vq16384, fsq, lfq, bsq, vae"),
        ("bottleneck=fsq,groups=8", "groups and finetune are of MGVQ's own bottleneck"),
        ("bottleneck=fsq,finetune", "groups and finetune are of MGVQ's own bottleneck"),
    ],
)
def test_bottlenecks_that_no_config_has_are_named(argument, message):
    with pytest.raises(ValueError, match=message):
        mgvq_f16.get_config(argument)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (kl_vae_f16.get_config(), 66_456_019),
        # Encoder with its linear map, and decoder without its fixed position table.
        (semanticist_l.get_config(), 86_237_952 + 12_304 + 456_984_704),
        (semanticist_l.get_config("repa"), 86_237_952 + 12_304 + 464_853_888),
        # Half of the last layer: 1024 inputs and a bias for 2 x 2 x 16 outputs fewer.
        (semanticist_l.get_config("flow"), 86_237_952 + 12_304 + 456_984_704 - 1025 * 64),
        (semanticist_xl.get_config(), 86_237_952 + 12_304 + 673_871_232),
    ],
    ids=["kl_vae", "semanticist_l", "semanticist_l_repa", "semanticist_l_flow", "semanticist_xl"],
)
def test_published_sizes_trace_at_full_size(config, parameters):
    config = config.copy_and_resolve_references().unlock()
    if "lpips_weight" in config.objective:
        config.objective.lpips_weight = 0.0
    mesh = parts.build_mesh(config)
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)
    state, _ = train_state.place_state(config, objective, optimizers, mesh)
    step = train_state.build_train_step(config, objective, optimizers, state, mesh)
    shape = (config.batch_size, 256, 256, 3)
    batch, frozen = {"images": jax.ShapeDtypeStruct(shape, "uint8")}, {}
    if "semanticist" in config.model.name:
        batch["moments"] = jax.ShapeDtypeStruct((config.batch_size, 16, 16, 32), "float32")
        batch["repa_features"] = jax.ShapeDtypeStruct((config.batch_size, 16, 16, 768), "float32")
    with jax.set_mesh(mesh):
        after, _ = jax.eval_shape(step, state, frozen, batch)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert parameter_overview.count_parameters(state.params["tokenizer"]) == parameters


@pytest.mark.parametrize(
    ("module", "positions", "millions"),
    zip(
        SECOND_STAGES,
        (256, 256, 576, 576, 32),
        (118, 361, 808, 1463, 489),
        strict=True,
    ),
    ids=[module.__name__.removeprefix("configs.") for module in SECOND_STAGES],
)
def test_second_stages_are_built_at_full_size(module, positions, millions):
    network = models.build(module.get_config().model)
    shape = (1, network.image_size, network.image_size, 3)
    variables = jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32")
    )
    count = parameter_overview.count_parameters(variables["params"])
    assert round(count / 1e6) == millions
    assert network.codec().num_positions == positions


@pytest.mark.parametrize(("first", "second"), DIGITS)
def test_both_stages_of_a_demo_fit_together(first, second):
    tokenizer, generator = first.get_config(), second.get_config()
    assert generator.model.tokenizer == tokenizer.model
    assert generator.data == tokenizer.data and generator.augment == tokenizer.augment
    assert not generator.augment.flip  # a digit's mirror image is none
    network = parts.build_objective(generator).network
    assert network.num_classes == parts.build_source(generator.data, "train").num_classes
    assert network.image_size == tokenizer.image_size == generator.image_size


def test_the_number_of_groups_can_be_overridden_alone():
    config = mgvq_f16.get_config().copy_and_resolve_references()
    config.model.quantizer.num_groups = 8
    objective = parts.build_objective(config)
    shapes = jax.eval_shape(
        objective.tokenizer.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    )
    assert shapes["params"]["quantizer"]["codebook"].shape == (8, 8192, 4)


@pytest.mark.parametrize(
    "config",
    [
        mgvq_demo,
        *PUBLISHED.values(),
        *SECOND_STAGES,
        *(module for pair in DIGITS for module in pair),
        kl_vae_f16,
        semanticist_demo,
        semanticist_l,
        semanticist_xl,
    ],
)
def test_config_arguments_are_checked(config):
    assert config.get_config("debug").num_steps <= 8
    with pytest.raises(ValueError, match="unknown config argument 'groupz'; known: "):
        config.get_config("groupz=4")


@pytest.mark.parametrize("argument", ["", "quick", "debug", "backbone=f16", "debug,backbone=f8"])
def test_the_arms_of_the_study_can_run(argument):
    """Their networks, objectives and evaluators are built and compared; nothing compiles."""
    study = beat_vae.get_config(argument)
    kind = KINDS[study.kind]
    arms = read_arms(study, kind.equal)
    kind(study, arms)
    is_short = "quick" in argument or "debug" in argument
    assert len(arms) == (8 if is_short else 27)
    assert len(choose_jobs(arms)) == (8 if is_short else 54)


def test_arguments_are_parsed_by_the_type_of_their_default():
    parsed = _common.parse_argument("groups=8,debug", groups=4, debug=False, rest="x")
    assert parsed == {"groups": 8, "debug": True, "rest": "x"}
    with pytest.raises(ValueError, match="argument 'debug' is a word of its own, without '=false'"):
        _common.parse_argument("debug=false", debug=False)
    for wrong in ("groups", "groups=", "groups=four"):
        with pytest.raises(ValueError, match="argument 'groups' takes a whole number: groups=4"):
            _common.parse_argument(wrong, groups=4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("/none.py", "no config file /none.py"),
        ("configs/semanticist_l.py", "has no discriminator"),
    ],
)
def test_a_config_that_cannot_be_timed_is_one_line(config, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_step", f"--config={config}"])
    with pytest.raises(SystemExit):
        train_step.main()
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1

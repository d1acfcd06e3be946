"""What a config changes of the run that it resumes."""

import json

import pytest
from ml_collections import ConfigDict

from vqlab.runs import resuming
from vqlab.runs.resuming import UNSET, Change, changes, compare

OLD = {
    "seed": 0,
    "num_steps": 8,
    "ema_decay": 0.9,
    "model": {"width": 16, "dtype": "float32", "heads": 2},
    "optimizer": {"tokenizer": {"learning_rate": 1e-4, "clip_norm": 1.0}},
    "sharding": [[".*", "fsdp"]],
}


def shapes_of(config):
    """As of a model whose heads have to divide its width, with an average and a clip if any."""
    width, heads = config.model.width, config.model.heads
    if width % heads:
        raise ValueError("heads do not divide the width")
    shapes = {"kernel": (width, heads)}
    if config.ema_decay:
        shapes["ema"] = (width, heads)
    if config.optimizer.tokenizer.clip_norm:
        shapes["clip"] = ()
    return shapes


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    return tmp_path


def changed(**settings):
    config = ConfigDict(json.loads(json.dumps(OLD)))
    config.update_from_flattened_dict(settings)
    return config


def test_every_setting_that_differs_is_a_line():
    new = {"a": {"b": 2, "c": [1]}, "new": "x"}
    found = changes({"a": {"b": 1, "c": [1]}, "gone": None}, new)
    assert found == [Change("a.b", 1, 2), Change("gone", None, UNSET), Change("new", UNSET, "x")]
    assert [str(change) for change in found] == [
        "a.b was 1, is 2",
        "gone was null, is not set",
        'new was not set, is "x"',
    ]


def test_what_fits_the_checkpoints_is_named_and_goes_on(workdir):
    settings = {"num_steps": 9, "model.dtype": "bfloat16", "optimizer.tokenizer.learning_rate": 2.0}
    found = compare(workdir, changed(**settings), shapes_of)
    assert {change.name: change.new for change in found} == settings
    assert compare(workdir, changed(), shapes_of) == []
    # A tuple of a config is a list in a file.
    assert compare(workdir, changed(sharding=((".*", "fsdp"),)), shapes_of) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ema_decay": 0.0}, "ema_decay was 0.9, is 0.0"),
        ({"optimizer.tokenizer.clip_norm": 0.0}, "clip_norm was 1.0, is 0.0"),
        ({"model.width": 32}, "model.width was 16, is 32"),
        ({"model.width": 9, "model.heads": 3}, "model.heads was 2, is 3; model.width was 16, is 9"),
        ({"seed": 1}, "seed was 0, is 1"),
    ],
)
def test_what_does_not_fit_is_refused_alone(workdir, settings, named):
    harmless = {"num_steps": 9, "model.dtype": "bfloat16", "optimizer.tokenizer.learning_rate": 2.0}
    with pytest.raises(ValueError, match="cannot go on with other settings") as error:
        compare(workdir, changed(**settings, **harmless), shapes_of)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert not any(name in str(error.value) for name in harmless)


def test_without_a_checkpoint_or_a_config_nothing_is_compared(workdir, caplog):
    (workdir / "config.json").write_text("{")
    assert compare(workdir, changed(seed=1), shapes_of) == []
    (workdir / "checkpoints" / "4").rmdir()
    assert compare(workdir, changed(seed=1), None) == []


def test_a_config_of_another_version_is_left_to_the_checkpoint(workdir):
    old = {name: value for name, value in OLD.items() if name != "ema_decay"}
    (workdir / "config.json").write_text(json.dumps(old))
    [change] = compare(workdir, changed(), shapes_of)
    assert change == Change("ema_decay", UNSET, 0.9)


def test_long_values_are_cut_short():
    assert len(str(resuming.Change("sharding", ["x" * 1000], []))) < 150

import json
import resource
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.evaluation.figures import image_png
from vqlab.training.disk import write_text
from vqlab.training.telemetry import METRICS_FILE, TENSORBOARD_DIR, MetricWriter, ProgressBar


def _lines(workdir):
    return [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]


def tensorboard_events(workdir):
    """[(step, tag)] of all TensorBoard event files, read without TensorFlow."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((workdir / TENSORBOARD_DIR).glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return found


def test_scalars_are_json_lines_and_events(tmp_path):
    with MetricWriter(tmp_path / "new" / "run") as writer:
        writer.write_scalars(3, {"train/l2": 0.5, "train/usage_g0": np.float32(0.25)})
        writer.write_scalars(4, {"train/l2": jnp.bfloat16(2.0), "eval/psnr": jnp.ones((1,))})
    workdir = tmp_path / "new" / "run"
    assert _lines(workdir) == [
        {"step": 3, "train/l2": 0.5, "train/usage_g0": 0.25},
        {"step": 4, "train/l2": 2.0, "eval/psnr": 1.0},
    ]
    assert tensorboard_events(workdir) == [
        (3, "train/l2"),
        (3, "train/usage_g0"),
        (4, "train/l2"),
        (4, "eval/psnr"),
    ]


def test_lines_are_on_disk_before_closing(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write_scalars(1, {"a": 1.0})
    assert _lines(tmp_path) == [{"step": 1, "a": 1.0}]
    writer.close()
    writer.write_scalars(2, {"a": 1.0})  # closed: nothing happens
    assert len(_lines(tmp_path)) == 1
    assert not (tmp_path / TENSORBOARD_DIR).exists()


def test_resuming_drops_later_steps_and_a_line_cut_short(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 6):
            writer.write_scalars(step, {"a": step})
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"step": 6, "a":')
    with MetricWriter(tmp_path, step=3, tensorboard=False) as writer:
        writer.write_scalars(4, {"a": 40})
    assert [(x["step"], x["a"]) for x in _lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]


def test_non_finite_values_are_null_in_strict_json(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write_scalars(1, {"nan": float("nan"), "inf": jnp.inf})
    assert _lines(tmp_path) == [{"step": 1, "nan": None, "inf": None}]


def test_pictures_and_texts_are_events(tmp_path):
    png = image_png(np.zeros((8, 16, 3)))
    with MetricWriter(tmp_path) as writer:
        writer.write_text(0, "config", "```json\n{}\n```")
        writer.write_images(2, {"reconstruction": png})
        writer.rewind(1)  # in the same second: another file
        writer.write_images(2, {"reconstruction": png})
    found = [(0, "config/text_summary"), (2, "reconstruction"), (2, "reconstruction")]
    assert sorted(tensorboard_events(tmp_path)) == found
    assert _lines(tmp_path) == []


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, tensorboard):
    values = {"long" * 1000 + str(number): 1.0 for number in range(50)}
    writer = MetricWriter(tmp_path, tensorboard=tensorboard)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*metrics.jsonl'"):
            writer.write_scalars(1, values)
        writer.close()  # which says nothing more
        if tensorboard:
            writer = MetricWriter(tmp_path, step=-1)
            with pytest.raises(OSError, match="File too large: '.*events.out"):
                writer.write_images(1, {"picture": image_png(noise()) * 2})
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def noise():
    return np.random.default_rng(0).uniform(-1, 1, (200, 200, 3))


def test_a_text_is_replaced_or_stays(tmp_path):
    write_text(tmp_path / "a", "old")
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '.*/a'"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path / "run") as writer:
        writer.write_scalars(1, {"a": 1.0})
    assert not (tmp_path / "run").exists()


def test_a_vector_is_no_scalar(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer, pytest.raises(ValueError):
        writer.write_scalars(1, {"usage": np.zeros(4)})


def test_progress_bar_shows_known_metrics_only(capsys):
    with ProgressBar(total=10, initial=4) as bar:
        bar.show({"loss/tokenizer": 0.125, "l2": 21.0, "grad_norm/tokenizer": 3.0})
        bar.update(6)
    text = capsys.readouterr().err
    assert "10/10" in text and "loss=0.125" in text and "l2=21" in text
    assert "grad_norm" not in text


def test_progress_bar_is_silent_on_other_processes(capsys, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with ProgressBar(total=2) as bar:
        bar.show({"l2": 1.0})
        bar.update()
    assert capsys.readouterr().err == ""

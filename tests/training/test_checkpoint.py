"""Checkpoints: what is kept, what comes back, and what is said when they are broken."""

import math
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.training import checkpoint, sharding
from vqlab.training.checkpoint import Checkpointer, CheckpointError, require_writable


def state(value=0.0):
    return {"params": {"w": jnp.full((8, 4), value)}, "moments": {"w": jnp.full((8, 4), -value)}}


def abstract(tree, place=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place or x.sharding), tree
    )


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2, keep_best=1, best_metric="psnr")
    for step, psnr in enumerate([3.0, 9.0, None, 4.0, 5.0]):
        checkpointer.save(step, state(step), {"next": step})
        checkpointer.wait()
        assert not checkpointer.is_measured(step)
        if psnr is not None:
            checkpointer.record(step, {"psnr": psnr, "other": 1.0})
    checkpointer.record(9, {"psnr": 99.0})  # there is no checkpoint of this step
    assert checkpointer.steps() == [1, 3, 4]
    assert [checkpointer.is_measured(step) for step in (1, 3, 4, 9)] == [True, True, True, False]
    assert checkpointer.best_step() == 1
    restored, position = checkpointer.restore(abstract(state()), "best")
    assert position == {"next": 1} and float(restored["params"]["w"][0, 0]) == 1.0
    restored, position = checkpointer.restore(abstract(state()))
    assert position == {"next": 4} and float(restored["moments"]["w"][0, 0]) == -4.0
    checkpointer.close()


def test_the_smallest_is_best_where_the_config_says_so(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1, best_metric="loss", best_mode="min")
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        checkpointer.save(step, state(step), {})
        checkpointer.wait()
        checkpointer.record(step, {"loss": loss})
    assert checkpointer.steps() == [1, 2] and checkpointer.best_step() == 1
    checkpointer.close()


def test_what_earlier_runs_measured_is_read_and_what_is_not_finite_is_not_best(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=9, best_metric="psnr")
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), {})
    checkpointer.wait()
    # As Orbax wrote it, which saved the metrics with the state.
    for step, text in ((1, '{"psnr": 20.5}'), (2, '{"psnr": NaN}'), (3, '{"psnr": 3')):
        folder = checkpointer.directory / str(step) / "metrics"
        folder.mkdir()
        (folder / "metrics").write_text(text)
    assert checkpointer.best_step() == 1
    checkpointer.record(3, {"psnr": math.inf})
    assert checkpointer.best_step() == 1 and checkpointer.is_measured(3)
    checkpointer.record(3, {"psnr": 20.5})
    checkpointer.close()
    again = Checkpointer(tmp_path, keep=1, best_metric="psnr")
    assert again.best_step() == 3
    again.save(4, state(), {})
    again.wait()
    assert again.steps() == [3, 4]
    again.close()


def test_restores_onto_another_mesh(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    place = sharding.batch_sharding(sharding.make_mesh(2, 4))
    checkpointer.save(1, jax.device_put(state(2.0), place), {})
    checkpointer.wait()
    other = sharding.batch_sharding(sharding.make_mesh(1, 2, devices=jax.devices()[:2]))
    restored, _ = checkpointer.restore(abstract(state(), other))
    assert restored["params"]["w"].sharding == other
    np.testing.assert_array_equal(restored["params"]["w"], np.full((8, 4), 2.0))
    checkpointer.close()


def test_weights_come_without_the_rest_and_without_a_word(tmp_path, caplog):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(3.0), {})
    checkpointer.wait()
    weights = checkpointer.restore_weights(("params",))
    assert caplog.messages == []
    assert set(weights) == {"params"} and isinstance(weights["params"]["w"], np.ndarray)
    np.testing.assert_array_equal(weights["params"]["w"], np.full((8, 4), 3.0))
    checkpointer.close()


def test_missing_checkpoints_are_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint in .*checkpoints"):
        checkpointer.restore(abstract(state()))
    checkpointer.save(1, state(), {})
    checkpointer.wait()
    with pytest.raises(ValueError, match=r"no checkpoint 7 in .* latest and steps \[1\]"):
        checkpointer.restore(abstract(state()), 7)
    with pytest.raises(ValueError, match="no checkpoint 'best'"):
        checkpointer.restore_weights(("params",), "best")
    checkpointer.close()


def test_a_truncated_checkpoint_is_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1.0), {})
    checkpointer.wait()
    files = [f for f in (tmp_path / "checkpoints" / "1" / "state").rglob("*") if f.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="checkpoint .*/1 is truncated"):
        checkpointer.restore(abstract(state()))
    with pytest.raises(ValueError, match="checkpoint .*/1 is truncated"):
        checkpointer.restore_weights(("params",))
    checkpointer.close()


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(), {})
    checkpointer.wait()
    other = {"params": {"v": jnp.zeros(3)}, "moments": {"v": jnp.zeros(3)}}
    with pytest.raises(ValueError, match="belongs to another model"):
        checkpointer.restore(abstract(other))
    checkpointer.close()


def test_an_unwritable_workdir_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="workdir .*/file/run cannot be written: Not a directory"):
        require_writable(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="gs://bucket/run is an address; mount the bucket"):
        require_writable("gs://bucket/run")


def empty(path):
    """Empties every array file of a checkpoint."""
    files = [
        file for file in (path / "state").rglob("*") if file.is_file() and "ocdbt" in str(file)
    ]
    assert files
    for file in files:
        file.write_bytes(b"")


def cut_short(path):
    """Halves the largest file of arrays and leaves the rest as it was."""
    file = max((path / "state").glob("**/d/*"), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [empty, cut_short])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage):
    checkpointer = Checkpointer(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), {"next": step})
    checkpointer.wait()
    damage(checkpointer.directory / "3")
    restored, position = checkpointer.restore_newest(abstract(state()))
    assert position == {"next": 2} and float(restored["params"]["w"][0, 0]) == 2.0
    # The number is free again, and what was there is not lost.
    assert checkpointer.steps() == [1, 2]
    assert (tmp_path / "checkpoints_unreadable" / "3").is_dir()
    checkpointer.save(3, state(3.5), {"next": 3})
    checkpointer.wait()
    assert float(checkpointer.restore_newest(abstract(state()))[0]["params"]["w"][0, 0]) == 3.5
    checkpointer.close()


def test_what_one_process_cannot_read_no_process_takes(tmp_path, monkeypatch, caplog):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, state(step), {"next": step})
    checkpointer.wait()
    answers = iter([False, True])  # of all processes; this one reads both
    monkeypatch.setattr(checkpoint, "_on_all_processes", lambda own: own and next(answers))
    _, position = checkpointer.restore_newest(abstract(state()))
    assert position == {"next": 1} and "another process cannot read it" in caplog.text
    assert checkpointer.steps() == [1]
    checkpointer.close()


def test_checkpoints_of_another_model_stay_where_they_are(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(), {})
    checkpointer.wait()
    other = {"params": {"v": jnp.zeros((8, 4))}}
    with pytest.raises(ValueError, match="is truncated or belongs to another model"):
        checkpointer.restore_newest(abstract(other))
    assert checkpointer.steps() == [1]
    checkpointer.close()


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1.0), {})
    checkpointer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"w": jax.random.normal(jax.random.key(0), (512, 512))}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(CheckpointError, match="checkpoints/2 cannot be .* good one is 1"):
            checkpointer.save(2, big, {})
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpointer.steps() == [1]
    checkpointer.save(3, state(3.0), {})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 3]
    checkpointer.close()

import contextlib
import json
import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from vqlab.data import (
    CenterCrop,
    CorruptDataError,
    TrainTransform,
    build_source,
    eval_batches,
    train_batches,
)

TRANSFORM = TrainTransform(16)


def take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


def assert_same(one, other):
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class Numbered:
    """Record r is one colour, r, with label r."""

    num_classes = 1

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, record):
        return {"image": np.full((16, 16, 3), record, np.uint8), "label": record}

    def name(self, record):
        return f"number {record}"


def test_shapes_types_and_range():
    batch = next(train_batches(Numbered(10), TRANSFORM, 4, seed=0))
    assert set(batch) == {"images", "labels"}
    assert (batch["images"].shape, batch["images"].dtype) == ((4, 16, 16, 3), np.uint8)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((4,), np.int32)
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 0], batch["labels"])


def test_every_epoch_is_a_permutation_of_its_own():
    labels = take(train_batches(Numbered(12), TRANSFORM, 4, seed=0), 6)["labels"].reshape(2, 12)
    assert (np.sort(labels) == np.arange(12)).all()
    assert (labels[0] != labels[1]).any()
    assert (labels[0] != np.arange(12)).any()


def test_global_batches_are_the_same_for_any_number_of_processes(image_folder):
    source = build_source("folder", path=image_folder(10, corrupt=[3]))
    whole = take(train_batches(source, TRANSFORM, 4, seed=1), 6)
    for count in (2, 4):
        parts = [
            take(train_batches(source, TRANSFORM, 4, seed=1, parts=(index,), num_parts=count), 6)
            for index in range(count)
        ]
        joined = {name: np.concatenate([p[name] for p in parts], axis=1) for name in whole}
        assert_same(whole, joined)


def test_worker_processes_and_what_takes_their_place_give_the_same_batches(image_folder, caplog):
    source = build_source("folder", path=image_folder(10, corrupt=[3]))
    straight = take(train_batches(source, TRANSFORM, 4, seed=1), 17)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        died = []
        batches = train_batches(
            source, TRANSFORM, 4, seed=1, num_workers=2, on_worker_death=died.append
        )
        first = [next(batches) for _ in range(5)]
        state = json.loads(json.dumps(batches.get_state()))
        assert not died
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        first += [next(batches) for _ in range(12)]  # more than are ready
        batches.close()
    assert died == ["a loader worker has died"] and not multiprocessing.active_children()
    [line] = [r.getMessage() for r in caplog.records if "SIGKILL" in r.getMessage()]
    assert "too little memory" in line and "/dev/shm" in line and "\n" not in line
    for number, batch in enumerate(first):
        assert_same(batch, {name: values[number] for name, values in straight.items()})
    assert len([r for r in caplog.records if "003.png" in r.getMessage()]) == 1
    resumed = train_batches(source, TRANSFORM, 4, seed=1)
    resumed.set_state(state)
    assert_same(take(resumed, 12), {name: values[5:] for name, values in straight.items()})


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_the_workers_reading(monkeypatch, sent):
    straight = take(train_batches(Numbered(10), TRANSFORM, 4, seed=1), 16)
    workers = []
    start = multiprocessing.context.SpawnProcess.start

    def start_and_signal(process):
        start(process)
        workers.append(process)
        os.kill(process.pid, sent)  # before it has imported anything

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start_and_signal)
    batches = train_batches(Numbered(10), TRANSFORM, 4, seed=1, num_workers=2)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for number in range(16):  # more than are ready ahead
        batch = next(batches)
        for worker in workers:
            os.kill(worker.pid, sent)
        assert_same(batch, {name: values[number] for name, values in straight.items()})
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask  # of this process: as before
    batches.close()
    assert not multiprocessing.active_children()
    assert [worker.exitcode for worker in workers] == [0, 0]  # of themselves, not killed


KILLED = """
import os, signal
from tests.data.test_pipeline import TRANSFORM, Numbered, train_batches

batches = train_batches(Numbered(10), TRANSFORM, 4, seed=1, num_workers=2)
next(batches)
print("read", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_process_that_is_killed():
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        # The workers have the same standard output, which ends with the last of them.
        assert process.communicate(timeout=60)[0] == b"read\n"
        assert process.returncode == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_state_is_the_same_on_every_process_and_fits_any_batch_size():
    source = Numbered(10)
    straight = take(train_batches(source, TRANSFORM, 2, seed=5), 12)
    states = []
    for index in range(2):
        batches = train_batches(source, TRANSFORM, 6, seed=5, parts=(index,), num_parts=2)
        next(batches)
        states.append(batches.get_state())
        batches.close()
    assert states[0]["next_example"] == states[1]["next_example"] == 6
    larger = train_batches(source, TRANSFORM, 8, seed=5)
    larger.set_state(states[0])
    labels = take(larger, 2)["labels"].reshape(-1)
    np.testing.assert_array_equal(labels, straight["labels"].reshape(-1)[6:22])


def test_restoring_twice_repeats_the_batch():
    batches = train_batches(Numbered(10), TRANSFORM, 2, seed=0)
    next(batches)
    state = batches.get_state()
    one = next(batches)
    batches.set_state(state)
    assert_same(one, next(batches))
    batches.close()


def test_another_seed_or_data_set_cannot_be_resumed():
    state = train_batches(Numbered(10), TRANSFORM, 2, seed=0).get_state()
    with pytest.raises(ValueError, match="the seed was 0, now it is 1"):
        train_batches(Numbered(10), TRANSFORM, 2, seed=1).set_state(state)
    with pytest.raises(ValueError, match="the number of records was 10, now it is 11"):
        train_batches(Numbered(11), TRANSFORM, 2, seed=0).set_state(state)


def test_corrupt_image_is_replaced_named_and_counted(image_folder, caplog):
    source = build_source("folder", path=image_folder(12, corrupt=[5]))
    batches = train_batches(source, TRANSFORM, 4, seed=0)
    with caplog.at_level(logging.WARNING):
        images = take(batches, 9)["images"]  # three epochs
    assert len([r for r in caplog.records if "005.png" in r.getMessage()]) == 1
    assert batches.corrupt.skipped >= 3
    assert (images.std(axis=(2, 3, 4)) > 12).all()
    state = batches.get_state()["corrupt"]
    assert list(state["names"]) == ["5"]


def test_too_many_corrupt_images_end_the_run_with_the_list(image_folder):
    source = build_source("folder", path=image_folder(12, corrupt=range(0, 12, 2)))
    batches = train_batches(source, TRANSFORM, 4, seed=0, max_corrupt_share=0.25)
    with pytest.raises(CorruptDataError, match=r"5 of 8 .* allows 3: .*00\d\.png, .*00\d\.png"):
        for _ in range(6):
            next(batches)
    allowed = train_batches(source, TRANSFORM, 4, seed=0, max_corrupt_share=0.5)
    assert len(take(allowed, 6)["labels"]) == 6


def test_nothing_readable_ends_the_run_whatever_the_share(image_folder):
    source = build_source("folder", path=image_folder(2, corrupt=[0, 1]))
    with pytest.raises(CorruptDataError, match=r"000\.png"):
        next(train_batches(source, TRANSFORM, 2, seed=0, max_corrupt_share=1.0))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("limit", [None, 5])
def test_evaluation_sees_every_example_once(processes, limit):
    passes = [
        eval_batches(Numbered(11), CenterCrop(16), 4, parts=(p,), num_parts=processes, limit=limit)
        for p in range(processes)
    ]
    assert {len(one) for one in passes} == {3 if limit is None else 2}
    batches = [list(one) for one in passes]
    assert {len(one) for one in batches} == {len(passes[0])}
    labels = [
        label
        for step in zip(*batches, strict=True)
        for part in step
        for label in part["labels"][part["mask"]]
    ]
    assert labels == (list(range(11)) if limit is None else [0, 2, 4, 6, 8])  # evenly spread
    padding = batches[-1][-1]["images"][~batches[-1][-1]["mask"]]
    assert not padding.any()


def test_evaluation_masks_and_counts_corrupt_images(image_folder, caplog):
    source = build_source("folder", path=image_folder(5, corrupt=[1]))
    batches = eval_batches(source, CenterCrop(16), 4)
    masks = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(masks, [True, False, True, True, True, False, False, False])
    assert batches.corrupt.names == {1: source.name(1)}
    assert "001.png" in caplog.text
    assert len(list(batches)) == 2  # a second pass


def test_numbers_out_of_range():
    source = Numbered(4)
    with pytest.raises(ValueError, match="batch size 6 does not split into 4 parts"):
        train_batches(source, TRANSFORM, 6, seed=0, num_parts=4)
    for parts in ((), (2,), (1, 0), (0, 0)):
        with pytest.raises(ValueError, match=r"parts \(.*\) are not ascending numbers in \[0, 2\)"):
            train_batches(source, TRANSFORM, 4, seed=0, parts=parts, num_parts=2)
    with pytest.raises(ValueError, match="seed is -1"):
        train_batches(source, TRANSFORM, 4, seed=-1)
    with pytest.raises(ValueError, match="num_workers is -1"):
        train_batches(source, TRANSFORM, 4, seed=0, num_workers=-1)
    with pytest.raises(ValueError, match="limit is 0"):
        eval_batches(source, CenterCrop(16), 4, limit=0)


def test_another_order_shows_other_images_from_the_same_place_on():
    def positions(batches, count):
        return [label for _ in range(count) for label in next(batches)["labels"].tolist()]

    source = Numbered(24)
    batches = train_batches(source, TRANSFORM, 4, seed=0)
    positions(batches, 2)
    state = batches.get_state()
    straight = positions(batches, 4)
    batches.set_state(state, reshuffle=True)
    other = positions(batches, 4)
    assert other != straight and batches.num_reshuffles == 1
    # The next time is yet another one, also where the state is from before the first.
    batches.set_state(state, reshuffle=True)
    assert batches.num_reshuffles == 2 and positions(batches, 4) not in (straight, other)
    # A whole epoch shows every image once in any order.
    resumed = train_batches(source, TRANSFORM, 4, seed=0)
    resumed.set_state(batches.get_state() | {"next_example": 24})
    assert sorted(positions(resumed, 6)) == list(range(24))
    resumed.set_state(state)
    assert resumed.num_reshuffles == 0 and positions(resumed, 4) == straight

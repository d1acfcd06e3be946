"""The loop: what it logs, saves and raises, and where it goes back to, on a model of one number."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.training.checkpoint import Checkpointer
from vqlab.training.events import EventLog, read_events
from vqlab.training.guards import Guards
from vqlab.training.loop import (
    DivergedForGood,
    Intervals,
    Run,
    beside_state,
    lacks_evaluation,
    train,
)
from vqlab.training.profiling import Profiler, ProfileWindow
from vqlab.training.speed import Speedometer
from vqlab.training.step import TrainState
from vqlab.training.stopping import SIGNALS, StopRequested, StopSignal
from vqlab.training.telemetry import MetricWriter


class Counting:
    """Batches that are their own number; may send a signal to this process at one of them.

    `poisoned` are numbers that are NaN instead, until the order has changed `cured_after` times.
    """

    def __init__(self, signal_at=None, poisoned=(), cured_after=10**6):
        self.position, self.signal_at = 0, signal_at
        self.poisoned, self.cured_after = poisoned, cured_after
        self.num_reshuffles = 0

    def __next__(self):
        if self.position == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.position += 1
        is_poisoned = self.position in self.poisoned and self.num_reshuffles < self.cured_after
        return {"x": np.float32(np.nan if is_poisoned else self.position)}

    def get_state(self):
        return {"next": self.position, "order": self.num_reshuffles}

    def set_state(self, state, *, reshuffle=False):
        self.position = state["next"]
        self.num_reshuffles += reshuffle

    def close(self):
        pass


@jax.jit
def add_batch(state, frozen, batch):
    """Adds the batch to the weight, unless the sum is not finite; the loss is the weight."""
    weight = state.params["w"] + batch["x"]
    kept = jnp.where(jnp.isfinite(weight), weight, state.params["w"])
    metrics = {"loss/model": weight, "usage": jnp.array([0.5, 1.0])}
    return state.replace(step=state.step + 1, params={"w": kept}), metrics


@pytest.fixture(autouse=True)
def restored_signals():
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def make_run(tmp_path, batches, evaluate=None):
    empty = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, {}, {})
    checkpointer = Checkpointer(tmp_path, keep=10, best_metric="score")
    beginning = beside_state(batches)

    def restore():
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), empty
        )
        return checkpointer.restore_newest(abstract) or (empty, beginning)

    state, beside = restore()
    batches.set_state(beside["data"])
    return Run(
        state=state,
        train_step=add_batch,
        frozen=None,
        batches=batches,
        to_device=lambda batch: batch,
        evaluate=evaluate,
        restore=restore,
        checkpointer=checkpointer,
        writer=MetricWriter(tmp_path, step=int(state.step), tensorboard=False),
        events=EventLog(tmp_path),
        stop=StopSignal(),
        speed=Speedometer(1),
        profiler=Profiler(ProfileWindow(), tmp_path),
        is_evaluation_due=lacks_evaluation(checkpointer, int(state.step), beside),
    )


def read_lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def events(tmp_path):
    return [(e["step"], e["event"]) for e in read_events(tmp_path)]


NOTHING = Intervals(log=0, evaluate=0, checkpoint=0)


def test_logs_means_evaluates_and_saves(tmp_path):
    run = make_run(tmp_path, Counting(), evaluate=lambda state: {"score": float(state.params["w"])})
    state, is_complete = train(run, 6, Intervals(log=2, evaluate=3, checkpoint=3))
    assert is_complete and float(state.params["w"]) == 21.0
    assert run.checkpointer.steps() == [3, 6] and run.checkpointer.best_step() == 6
    lines = read_lines(tmp_path)
    name = "train/loss/model"
    losses = {line["step"]: line[name] for line in lines if name in line}
    # Weights after steps 1..6 are 1, 3, 6, 10, 15, 21: means of pairs.
    assert losses == {2: 2.0, 4: 8.0, 6: 18.0}
    assert [line["eval/score"] for line in lines if "eval/score" in line] == [6.0, 21.0]
    assert all(line["train/images_per_second"] > 0 for line in lines if "train/usage_g1" in line)
    assert events(tmp_path) == []


def test_a_step_that_is_not_finite_is_skipped_counted_and_logged(tmp_path):
    run = make_run(tmp_path, Counting(poisoned={3, 4}))
    state, is_complete = train(run, 6, Intervals(log=6, evaluate=0, checkpoint=4), Guards(2))
    assert is_complete and float(state.params["w"]) == 1 + 2 + 5 + 6
    [line] = read_lines(tmp_path)
    assert line["train/skipped"] == 2 and line["train/loss/model"] == (1 + 3 + 8 + 14) / 4
    assert events(tmp_path) == [(3, "skipped"), (4, "skipped")]
    assert "loss/model is nan" in read_events(tmp_path)[0]["message"]
    # Nothing was saved at step 4, whose updates were being skipped.
    assert run.checkpointer.steps() == [6]


def test_too_many_in_a_row_go_back_with_another_order(tmp_path):
    batches = Counting(poisoned=range(6, 10), cured_after=2)
    run = make_run(tmp_path, batches)
    guards = Guards(max_skipped=1, max_rollbacks=3)
    state, is_complete = train(run, 8, Intervals(log=1, evaluate=0, checkpoint=2), guards)
    assert is_complete and float(state.params["w"]) == 36.0 and batches.num_reshuffles == 2
    rollbacks = [e for e in read_events(tmp_path) if e["event"] == "rollback"]
    assert [e["step"] for e in rollbacks] == [7, 7]
    assert "back to step 4, in data order 2" in rollbacks[-1]["message"]
    # The log goes on from there: each step is in it once.
    assert [line["step"] for line in read_lines(tmp_path)] == list(range(1, 9))


def test_a_run_that_diverges_at_once_begins_anew(tmp_path):
    batches = Counting(poisoned={1}, cured_after=1)
    run = make_run(tmp_path, batches)
    state, is_complete = train(run, 3, NOTHING, Guards(max_skipped=0, max_rollbacks=1))
    assert is_complete and float(state.params["w"]) == 6.0


def test_a_run_that_diverges_again_and_again_stops(tmp_path):
    run = make_run(tmp_path, Counting(poisoned=range(5, 99)))
    intervals = Intervals(log=0, evaluate=0, checkpoint=2)
    with pytest.raises(DivergedForGood, match="loss/model is nan at step 6, the 2. in a row"):
        train(run, 100, intervals, Guards(max_skipped=1, max_rollbacks=2))
    assert run.checkpointer.steps() == [2, 4]
    assert events(tmp_path) == [(6, "rollback"), (6, "rollback"), (6, "diverged")]


def test_a_sick_codebook_is_reported_once(tmp_path):
    run = make_run(tmp_path, Counting())
    run.train_step = lambda state, frozen, batch: (
        state.replace(step=state.step + 1),
        {"dead": np.array([0.1, 0.95]), "perplexity": np.array([1.5, 9.0])},
    )
    guards = Guards(max_dead_share=0.9, min_perplexity=2.0)
    train(run, 4, Intervals(log=1, evaluate=0, checkpoint=0), guards)
    messages = [e["message"] for e in read_events(tmp_path)]
    assert messages == [
        "g1: 95 % of the codewords are dead (guards.max_dead_share=0.9)",
        "g0: perplexity 1.5 (guards.min_perplexity=2)",
    ]


def test_a_signal_saves_the_step_and_the_position(tmp_path):
    run = make_run(tmp_path, Counting(signal_at=4))
    state, is_complete = train(run, 100, NOTHING)
    assert not is_complete and int(state.step) == 5
    assert events(tmp_path) == [(5, "stopped")]
    assert read_events(tmp_path)[0]["message"] == "by SIGTERM; step 5 is saved"
    run.close()
    again = make_run(tmp_path, Counting())
    assert int(again.state.step) == 5 and again.batches.position == 5
    assert float(again.state.params["w"]) == 15.0


@pytest.mark.parametrize("at", [4, 6])
def test_an_evaluation_that_a_signal_ends_is_made_up_for(tmp_path, at):
    def interrupted(state):
        raise StopRequested

    run = make_run(tmp_path, Counting(), interrupted)
    intervals = Intervals(log=0, evaluate=at, checkpoint=0)
    _, is_complete = train(run, 6, intervals)
    assert not is_complete and run.checkpointer.steps() == [at]
    run.close()
    seen = []
    again = make_run(tmp_path, Counting(), lambda state: seen.append(int(state.step)) or {})
    _, is_complete = train(again, 6, intervals)
    assert is_complete and seen[0] == at and seen[-1] == 6


def test_no_evaluation_costs_a_step(tmp_path):
    """Its checkpoint is on disk before, due or not, and another process can evaluate it then."""

    def failing(state):
        assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]")] == ["3"]
        raise MemoryError

    run = make_run(tmp_path, Counting(), failing)
    intervals = Intervals(log=0, evaluate=3, checkpoint=0)
    with pytest.raises(MemoryError):
        train(run, 9, intervals)
    run.close()
    seen = []
    again = make_run(tmp_path, Counting(), lambda state: seen.append(int(state.step)) or {})
    assert int(again.state.step) == 3
    _, is_complete = train(again, 9, intervals)
    assert is_complete and seen == [3, 6, 9]
    again.close()
    assert not make_run(tmp_path, Counting(), failing).is_evaluation_due


def test_where_a_run_goes_back_to_is_not_evaluated_again(tmp_path):
    seen = []
    batches = Counting(poisoned={6}, cured_after=1)
    run = make_run(tmp_path, batches, lambda state: seen.append(int(state.step)) or {"score": 1.0})
    guards = Guards(max_skipped=0, max_rollbacks=1)
    _, is_complete = train(run, 8, Intervals(log=0, evaluate=2, checkpoint=0), guards)
    assert is_complete and seen == [2, 4, 6, 8] and batches.num_reshuffles == 1
    assert run.checkpointer.best_step() == 8


def test_a_window_of_steps_is_profiled(tmp_path):
    run = make_run(tmp_path, Counting())
    run.profiler = Profiler(ProfileWindow(start=2, num_steps=2), tmp_path)
    train(run, 5, NOTHING)
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    assert sorted(map(int, steps)) == [2, 3]
    with pytest.raises(ValueError, match="profile.start=0 must be at least 1"):
        ProfileWindow(start=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_skipped": -1}, "guards.max_skipped=-1 must be at least 0"),
        ({"max_dead_share": 1.2}, "guards.max_dead_share=1.2 is no share"),
    ],
)
def test_wrong_guards_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Guards(**settings)

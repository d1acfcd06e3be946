"""The loop: what it logs, saves and raises, on a model of one number."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.training.checkpoint import Checkpointer
from vqlab.training.loop import Intervals, NonFiniteError, Run, scalars, train
from vqlab.training.step import TrainState
from vqlab.training.telemetry import MetricWriter


class Counting:
    """Batches that are their own number; may send a signal to this process at one of them."""

    def __init__(self, signal_at=None):
        self.position, self.signal_at = 0, signal_at

    def __next__(self):
        if self.position == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.position += 1
        return {"x": np.float32(self.position)}

    def get_state(self):
        return {"next": self.position}


@jax.jit
def add_batch(state, frozen, batch):
    """Adds the batch to the weight; the loss is NaN once the weight passes `frozen`."""
    weight = state.params["w"] + batch["x"]
    loss = jnp.where(weight > frozen, jnp.nan, weight)
    metrics = {"loss/model": loss, "usage": jnp.array([0.5, 1.0])}
    return state.replace(step=state.step + 1, params={"w": weight}), metrics


@pytest.fixture(autouse=True)
def restored_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def make_run(tmp_path, batches, limit=jnp.inf, evaluate=None):
    empty = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, {}, {})
    return Run(
        state=empty,
        train_step=add_batch,
        frozen=jnp.float32(limit),
        batches=batches,
        to_device=lambda batch: batch,
        evaluate=evaluate,
        checkpointer=Checkpointer(tmp_path, keep=10, best_metric="score"),
        writer=MetricWriter(tmp_path, tensorboard=False),
        batch_size=1,
    )


def read_lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_vectors_become_one_name_a_group():
    metrics = {"a": jnp.float32(1), "u": np.array([2.0, 3.0])}
    assert scalars(metrics) == {"a": 1, "u_g0": 2, "u_g1": 3}


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


def test_a_non_finite_metric_ends_the_run_with_its_name_and_step(tmp_path):
    run = make_run(tmp_path, Counting(), limit=12)
    with pytest.raises(NonFiniteError, match="loss/model is nan at step 5"):
        train(run, 100, Intervals(log=0, evaluate=0, checkpoint=2))
    # Step 6's checkpoint was due while step 5's metrics were in flight: it must not exist.
    assert run.checkpointer.steps() == [2, 4]


def test_a_signal_saves_the_step_and_the_position(tmp_path):
    run = make_run(tmp_path, Counting(signal_at=4))
    state, is_complete = train(run, 100, Intervals(log=0, evaluate=0, checkpoint=0))
    assert not is_complete and int(state.step) == 5
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    saved, position = run.checkpointer.restore(abstract)
    assert position == {"next": 5} and float(saved.params["w"]) == 15.0

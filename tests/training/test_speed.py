"""Rates of a run, on a clock of our own."""

import time

import pytest

from vqlab.training.speed import Speedometer


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_waiting_counts_as_such_and_pauses_count_for_nothing(clock):
    speed = Speedometer(batch_size=6, flops=12e12, peak_flops=10e12)
    for _ in range(2):
        with speed.waiting():
            clock[0] += 1.0
        clock[0] += 3.0
    with speed.paused():
        clock[0] += 100.0
    assert speed.rates() == {
        "images_per_second": 2 * 6 / 8,
        "step_seconds": 4.0,
        "data_wait_share": 0.25,
        # 2 steps of 12 TFLOP in 8 s, of 10 TFLOP/s that the devices could do.
        "mfu": pytest.approx(0.3),
    }
    with speed.waiting():
        clock[0] += 1.0
    assert speed.rates()["data_wait_share"] == 1.0


def test_without_a_known_peak_there_is_no_utilisation(clock):
    speed = Speedometer(batch_size=1, flops=1e12)
    clock[0] += 1.0
    assert "mfu" not in speed.rates()

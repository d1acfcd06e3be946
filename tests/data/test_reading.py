"""What becomes of batches whose worker processes die, by stand-ins for grain's iterators."""

import pytest

from vqlab.data import reading
from vqlab.data.reading import Reading, WorkerDied, describe_death

DIED = "Worker process was terminated unexpectedly with exit code {}. Search the logs above for ..."


class Dying:
    """Numbers, the last of which is an error."""

    def __init__(self, numbers, error):
        self.numbers, self.error, self.is_closed = list(numbers), error, False

    def __next__(self):
        if self.numbers:
            return self.numbers.pop(0)
        raise self.error

    def close(self):
        self.is_closed = True


@pytest.fixture
def dying(monkeypatch):
    """An error -> readings whose workers give 0, 1, 2 and raise it; their iterators."""
    started = []

    def make(error, **settings):
        def start(self, rows, first, num_batches):
            numbers = range(first, 3 if self.num_workers else num_batches)
            started.append(Dying(numbers, error if self.num_workers else StopIteration()))
            return started[-1]

        monkeypatch.setattr(Reading, "start", start)
        return Reading(num_workers=2, **settings), started

    return make


def test_a_dead_worker_is_told_and_replaced_by_threads(dying):
    told = []
    rows, started = dying(RuntimeError(DIED.format(-9)), on_worker_death=told.append)
    assert list(rows.read(None, 6)) == [0, 1, 2, 3, 4, 5]
    assert told == ["a loader worker has died"]
    assert [each.is_closed for each in started] == [True, False]


def test_a_dead_worker_is_an_error_where_nobody_is_to_be_told(dying):
    rows, _ = dying(RuntimeError(DIED.format(-7)))
    batches = rows.read(None, 6)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WorkerDied, match="ended by SIGBUS: too little memory .* a full /dev/shm"):
        next(batches)


def test_other_errors_of_workers_stay_what_they_are(dying):
    rows, _ = dying(RuntimeError("a closed iterator"), on_worker_death=print)
    with pytest.raises(RuntimeError, match="a closed iterator"):
        list(rows.read(None, 6))
    assert describe_death("a closed iterator") is None
    assert "ended by exit code 1:" in describe_death(DIED.format(1))


def test_the_room_for_batches_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "SHARED_MEMORY", str(tmp_path))
    assert "MiB free" in describe_death(DIED.format(-7))
    monkeypatch.setattr(reading, "SHARED_MEMORY", str(tmp_path / "none"))
    assert "No such file" in describe_death(DIED.format(-7))

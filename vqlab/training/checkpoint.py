"""Checkpoints: the whole state of a run, written by Orbax in the background.

A checkpoint holds the train state (parameters, variables, optimizers, averaged weights), the
position in the data, and beside them, once it is measured, the metrics of the evaluation at its
step. A checkpoint becomes visible only when it is complete, so a killed run resumes from the one
before.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from vqlab.training.scores import BestMeasured, Scores

Tree = Any

CHECKPOINTS = "checkpoints"
# Unreadable checkpoints are moved here, beside those that are read.
SET_ASIDE = "checkpoints_unreadable"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


log = logging.getLogger("vqlab")

_UNWRITABLE = (ValueError, OSError, RuntimeError)


def _reason(error: BaseException) -> str:
    """The system's words where it said why, such as "No space left on device"."""
    while error.__cause__ is not None and not isinstance(error, OSError):
        error = error.__cause__
    return (error.strerror if isinstance(error, OSError) else None) or _first_line(error)


@contextlib.contextmanager
def _named_if_unreadable(path: pathlib.Path) -> Iterator[None]:
    """Whatever Orbax raises in reading becomes a ValueError that names the checkpoint.

    That is any Exception: where a file of arrays is cut short it raises the class itself.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(
            f"checkpoint {path} is truncated or belongs to another model: {_first_line(cause)}"
        ) from error


def _first_line(error: BaseException, limit: int = 200) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def require_writable(workdir: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a run's folder, made if need be.

    With several processes all of them have to call this.

    Raises:
      ValueError: when it cannot be made or written to, or is not the same folder for all processes.
    """
    if "://" in str(workdir):
        raise ValueError(
            f"workdir {workdir} is an address; mount the bucket (gcsfuse, s3fs) and give the folder"
        )
    path = pathlib.Path(workdir).expanduser().absolute()
    probe = path / f".write-test-{jax.process_index()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        try:
            _require_shared(path)
        finally:
            probe.unlink()
    except OSError as error:
        raise ValueError(f"workdir {path} cannot be written: {error.strerror}") from error
    return path


def _require_shared(path: pathlib.Path) -> None:
    """Raises ValueError unless all processes find the probe of process 0 in their `path`."""
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("probes of the workdir are written")
    found = (path / ".write-test-0").exists()
    lacking = np.flatnonzero(~multihost_utils.process_allgather(np.array(found)))
    if len(lacking):
        raise ValueError(
            f"workdir {path} is not one shared folder: processes {lacking.tolist()} do not see "
            "what process 0 writes there"
        )


def saved_steps(workdir: str | pathlib.Path) -> list[int]:
    """The finished checkpoints of a workdir, oldest first; none is opened."""
    folder = pathlib.Path(workdir) / CHECKPOINTS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


class Checkpointer:
    """Saves and restores one run's checkpoints under `workdir/checkpoints`.

    Args:
      workdir: the run's folder.
      keep: how many of the newest to keep.
      keep_best: how many of the best by `best_metric` to keep beside them.
      best_metric: name of an evaluation metric; larger is better unless `best_mode` is "min".
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        keep: int = 2,
        keep_best: int = 1,
        best_metric: str = "",
        best_mode: str = "max",
    ):
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints: at least the newest is kept")
        self.directory = pathlib.Path(workdir).absolute() / CHECKPOINTS
        self._scores = Scores(self.directory, best_metric, best_mode)
        policies = [checkpoint_managers.LatestN(keep), BestMeasured(self._scores, keep_best)]
        self._newest_asked = -1
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                save_interval_steps=1,
                enable_async_checkpointing=True,
            ),
        )

    def save(self, step: int, state: Tree, data: dict) -> None:
        """Writes in the background; waits first for the save before it.

        Args:
          step: number of finished steps.
          state: the train state.
          data: the data iterator's JSON state.

        Raises:
          CheckpointError: this one or the one before cannot be written.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        with self._named_errors():
            self._manager.wait_until_finished()
        self._newest_asked = step
        with self._named_errors():
            self._manager.save(step, args=items, force=True)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps what was measured of a step beside its checkpoint, if it has one on disk.

        Raises:
          OSError: it cannot be written; the checkpoint is as it was.
        """
        self._scores.record(step, metrics)

    def is_measured(self, step: int) -> bool:
        """Whether `record` was called for the checkpoint; the same on all processes."""
        return self._scores.has(step)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except _UNWRITABLE as error:
            steps = self.steps()
            raise CheckpointError(
                f"checkpoint {self.directory / str(self._newest_asked)} cannot be written: "
                f"{_reason(error)}; the newest good one is {steps[-1] if steps else 'none'}"
            ) from error

    def check(self) -> None:
        """Raises CheckpointError if what is being written has failed; does not wait."""
        with self._named_errors():
            self._manager.check_for_errors()

    def steps(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the best evaluation, or None when none was evaluated."""
        return next(iter(self._scores.ranked(self.steps())), None)

    def restore(self, abstract_state: Tree, step: int | str = "latest") -> tuple[Tree, dict]:
        """(state, data state) of a checkpoint.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings to restore to; any mesh will do.
          step: "latest", "best" or a number.

        Raises:
          ValueError: no checkpoint there, or one that is truncated or of another model.
        """
        return _read(self.directory / str(self.choose(step)), abstract_state)

    def restore_newest(self, abstract_state: Tree) -> tuple[Tree, dict] | None:
        """(state, data state) of the newest checkpoint that can be read; None without any.

        Those after it, which cannot, are moved to `SET_ASIDE`: one that does not fit the model is
        not told from a damaged one until an older one fits. All processes take the same one, the
        newest that each of them can read.

        Raises:
          ValueError: there are checkpoints, and none can be read; the newest one's error.
        """
        faults: dict[int, ValueError] = {}
        for step in reversed(self._common_steps()):
            path, restored, fault = self.directory / str(step), None, None
            try:
                restored = _read(path, abstract_state)
            except ValueError as error:
                fault = error
            if not _on_all_processes(restored is not None):
                faults[step] = fault or ValueError(
                    f"checkpoint {path}: another process cannot read it"
                )
                continue
            for unreadable, error in faults.items():
                log.warning("%s; going on from step %d", error, step)
                self._set_aside(unreadable)
            return restored
        if faults:
            raise next(iter(faults.values()))
        return None

    def _common_steps(self) -> list[int]:
        """`steps` as process 0 sees them: a shared folder may show others what was a moment ago."""
        steps = np.array(self.steps(), np.int32)
        if jax.process_count() == 1:
            return steps.tolist()
        count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
        return multihost_utils.broadcast_one_to_all(np.resize(steps, count)).tolist()

    def _set_aside(self, step: int) -> None:
        source = self.directory / str(step)
        if jax.process_index() == 0:
            target = self.directory.parent / SET_ASIDE / str(step)
            while target.exists():
                target = target.with_name(target.name + "-again")
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} is set aside")
        self._manager.reload()

    def restore_weights(self, names: tuple[str, ...], step: int | str = "latest") -> Tree:
        """Only some top-level entries of the state (such as "params"), as NumPy arrays.

        The optimizer's moments are never read, so a model loads in the memory of its weights.

        Raises:
          ValueError: no checkpoint there, or one that is truncated.
        """
        path = self.directory / str(self.choose(step)) / "state"
        reader = ocp.PyTreeCheckpointer()
        with _named_if_unreadable(path.parent):
            # The checkpointer's own `metadata` warns of a file that items never have.
            saved = ocp.PyTreeCheckpointHandler().metadata(path)
            item = {
                name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
                for name, tree in saved.tree.items()
                if name in names
            }
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            return reader.restore(
                path,
                args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True),
            )

    def choose(self, step: int | str) -> int:
        """The number of the checkpoint called "latest", "best" or by its number.

        Raises:
          ValueError: there is none; the message names those that there are.
        """
        steps = self.steps()
        if not steps:
            raise ValueError(f"no checkpoint in {self.directory}")
        known = {"latest": steps[-1], "best": self.best_step()} | {str(n): n for n in steps}
        if known.get(str(step)) is None:
            raise ValueError(
                f"no checkpoint {step!r} in {self.directory}; there are latest"
                f"{', best' if known['best'] is not None else ''} and steps {steps}"
            )
        return known[str(step)]

    def wait(self) -> None:
        """Returns when every save is on disk; raises CheckpointError."""
        with self._named_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being written, then frees the threads.

        Raises nothing, since it also ends runs that end with an error: `wait` first where it
        matters whether all is written.
        """
        with contextlib.suppress(*_UNWRITABLE):
            self._manager.close()


def _read(path: pathlib.Path, abstract_state: Tree) -> tuple[Tree, dict]:
    """(state, data state) of the checkpoint at `path`, without a word to other processes.

    Orbax's manager lets them meet when each has read, which one that cannot read never does.

    Raises:
      ValueError: it is truncated or of another model.
    """
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )

    def read(item: str, handler: type, args: Any) -> Any:
        with ocp.Checkpointer(
            handler(multiprocessing_options=alone), multiprocessing_options=alone
        ) as reader:
            return reader.restore(path / item, args=args)

    standard = ocp.args.StandardRestore(abstract_state)
    with _named_if_unreadable(path):
        state = read("state", ocp.StandardCheckpointHandler, standard)
        return state, read("data", ocp.JsonCheckpointHandler, ocp.args.JsonRestore())


def _on_all_processes(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).all())

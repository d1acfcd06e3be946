"""Checkpoints: the whole state of a run, written by Orbax in the background.

A checkpoint holds the train state (parameters, variables, optimizers, averaged weights), the
position in the data, and the metrics of the evaluation at its step, if there was one. A checkpoint
becomes visible only when it is complete, so a killed run resumes from the one before.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

Tree = Any

# What Orbax and TensorStore raise for files that are missing, cut short or of another structure.
_UNREADABLE = (ValueError, KeyError, OSError, TypeError)


def _first_line(error: BaseException, limit: int = 200) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def require_writable(workdir: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a run's folder, made if need be.

    Raises:
      ValueError: when it cannot be made or written to.
    """
    path = pathlib.Path(workdir).expanduser().absolute()
    probe = path / f".write-test-{jax.process_index()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"workdir {path} cannot be written: {error.strerror}") from error
    return path


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
        if best_mode not in ("max", "min"):
            raise ValueError(f"unknown best_mode {best_mode!r}; known: max, min")
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints: at least the newest is kept")
        self._metric, self._mode = best_metric, best_mode
        policies = [checkpoint_managers.LatestN(keep)]
        if best_metric and keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best_metric],
                    reverse=best_mode == "min",
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                # Ranks nothing (the policies do); without it metrics are not read back.
                best_fn=lambda metrics: metrics[best_metric],
                best_mode=best_mode,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                save_interval_steps=1,
                enable_async_checkpointing=True,
            ),
        )

    def save(self, step: int, state: Tree, data: dict, metrics: dict | None = None) -> None:
        """Writes in the background; waits first for the save before it.

        Args:
          step: number of finished steps.
          state: the train state.
          data: the data iterator's JSON state.
          metrics: of the evaluation at this step, or None.
        """
        if step in self._manager.all_steps():
            return
        scores = None
        if metrics is not None and self._metric in metrics:
            scores = {self._metric: float(metrics[self._metric])}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=items, metrics=scores, force=True)

    def steps(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the best evaluation, or None when none was evaluated."""
        scored = [
            (metrics[self._metric], step)
            for step in self.steps()
            if self._metric in (metrics := self._manager.metrics(step) or {})
        ]
        if not scored:
            return None
        return (max if self._mode == "max" else min)(scored)[1]

    def restore(self, abstract_state: Tree, step: int | str = "latest") -> tuple[Tree, dict]:
        """(state, data state) of a checkpoint.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings to restore to; any mesh will do.
          step: "latest", "best" or a number.

        Raises:
          ValueError: no checkpoint there, or one that is truncated or of another model.
        """
        step = self.choose(step)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except _UNREADABLE as error:
            raise ValueError(
                f"checkpoint {self.directory / str(step)} is truncated or belongs to another "
                f"model: {_first_line(error)}"
            ) from error
        return restored["state"], restored["data"]

    def restore_weights(self, names: tuple[str, ...], step: int | str = "latest") -> Tree:
        """Only some top-level entries of the state (such as "params"), as NumPy arrays.

        The optimizer's moments are never read, so a model loads in the memory of its weights.

        Raises:
          ValueError: no checkpoint there, or one that is truncated.
        """
        path = self.directory / str(self.choose(step)) / "state"
        reader = ocp.PyTreeCheckpointer()
        try:
            saved = reader.metadata(path).item_metadata
            if saved is None:
                raise ValueError("its metadata is missing")
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
        except _UNREADABLE as error:
            raise ValueError(
                f"checkpoint {path.parent} is truncated or unreadable: {_first_line(error)}"
            ) from error

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
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being written, then frees the threads."""
        self._manager.wait_until_finished()
        self._manager.close()

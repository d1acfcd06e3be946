"""A profile of a few steps, for TensorBoard, XProf or Perfetto."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import jax

PROFILE_DIR = "profile"


@dataclasses.dataclass(frozen=True)
class ProfileWindow:
    """The steps to profile.

    Attributes:
      start: the first one, counted from where the process starts, whose first steps compile.
      num_steps: how many; 0 for none.
    """

    start: int = 10
    num_steps: int = 0

    def __post_init__(self):
        if self.start < 1 or self.num_steps < 0:
            raise ValueError(
                f"profile.start={self.start} must be at least 1 and "
                f"profile.num_steps={self.num_steps} at least 0"
            )


class Profiler:
    """Writes `workdir/profile` for the steps of a window; `step` is called once a step.

    In the profile a step, "train", lasts from one call to the next: batch, dispatch and what the
    loop does after it. Its number is counted from where the process starts.
    """

    def __init__(self, window: ProfileWindow, workdir: str | Path):
        self._window, self._directory = window, Path(workdir) / PROFILE_DIR
        self._count = 0
        self._is_on = False
        self._in_step = contextlib.ExitStack()

    def step(self) -> None:
        """Starts or stops where the window does; before the step is dispatched."""
        self._count += 1
        self._in_step.close()
        first, length = self._window.start, self._window.num_steps
        if length and self._count == first:
            jax.profiler.start_trace(str(self._directory))
            self._is_on = True
        elif self._is_on and self._count == first + length:
            self.close()
        if self._is_on:
            annotation = jax.profiler.StepTraceAnnotation("train", step_num=self._count)
            self._in_step.enter_context(annotation)

    def close(self) -> None:
        """Writes what there is, if the window is still open."""
        self._in_step.close()
        if self._is_on:
            jax.profiler.stop_trace()
        self._is_on = False

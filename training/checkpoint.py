"""Checkpoints that survive a kill at any moment, and what every stage's loop shares."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

SECONDS_BETWEEN_SAVES = 120.0


class Stage(Protocol):
    """One training stage: all that changes from step to step is in its state."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, random generators included."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""

    def train_step(self, step: int) -> dict[str, float]:
        """Take step number ``step`` (from 0) and return what to log."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state so that ``path`` holds either the old or the new one, whole, after a kill or a power cut."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """Return the saved state on the CPU, or None where nothing was saved yet."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def run(stage: Stage, path: Path, *, steps: int, log: Callable[[str], None], on_save: Callable[[int], None]) -> None:
    """Train a stage to ``steps`` steps, going on from ``path`` where it exists.

    Args:
        stage: what to train.
        path: checkpoint, saved every two minutes and at the end.
        steps: total, earlier runs included.
        log: takes a line of running means every 100 steps.
        on_save: called with the number of steps done after each save.
    """
    saved = load(path)
    first = 0
    if saved is not None:
        stage.load_state_dict(saved["stage"])
        first = saved["steps_done"]
        log(f"resumed at step {first}")
    started = saved_at = time.monotonic()
    means: dict[str, float] = {}
    for step in range(first, steps):
        for name, value in stage.train_step(step).items():
            means[name] = 0.98 * means.get(name, value) + 0.02 * value
        done = step + 1
        if done % 100 == 0:
            line = " ".join(f"{name} {value:.4f}" for name, value in means.items())
            log(f"{done}/{steps} {time.monotonic() - started:.0f} s {line}")
        if time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES or done == steps:
            save(path, {"stage": stage.state_dict(), "steps_done": done})
            on_save(done)
            saved_at = time.monotonic()


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Return the rate at a step: linear warm-up, then a cosine from ``peak`` to ``floor * peak``."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * cosine)

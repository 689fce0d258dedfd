"""What a baseline is, and what it hands back."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.methods import EraseContext
from unsee_core.pipeline import Pipeline


@dataclass(frozen=True)
class Changed:
    """A model with the concept erased from its weights.

    Attributes:
        pipeline: the resident one but for the modules that changed, which are copies.
        size_bytes: of the weights that the paper's method would save, in float32.
    """

    pipeline: Pipeline
    size_bytes: int


ChangedRun = Generator[EraseProgress, None, Changed]


@dataclass(frozen=True)
class Baseline:
    """A method to compare with.

    Attributes:
        source: its paper's arXiv id.
        recipe: a frozen dataclass of its settings, chosen on the tuning half.
        run: erases by a recipe; yields after every step, as the project's own methods do.
    """

    name: str
    source: str
    recipe: Any
    run: Callable[[EraseContext, Any], ChangedRun]


def bytes_of(weights: Iterable[Tensor]) -> int:
    """Return the bytes of weights in float32."""
    return 4 * sum(weight.numel() for weight in weights)

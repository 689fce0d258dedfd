"""Generators that yield after every step, as methods and attacks are: run to their end."""

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(steps: Generator[Any, None, T]) -> T:
    """Return what a generator's steps lead to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found

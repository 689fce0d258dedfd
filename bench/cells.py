"""Cells, a concept erased by a method, as lines of a file: what is measured once is not measured again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import lines
from bench.measures import Measure


@dataclass(frozen=True)
class Cell:
    """One line.

    Attributes:
        under: model, judge, sampler, sizes and the method's settings; a cell under others is another cell.
        seconds: of the erasure, without the report.
        size_bytes: of the adapter, or of a baseline's changed weights.
        report: the server's figures; None for a baseline.
        misses: prompts that still show the concept, and others that were lost.
    """

    method: str
    concept: str
    under: Mapping[str, Any]
    measures: Mapping[str, Measure]
    seconds: float
    phase_seconds: Mapping[str, float]
    threads: int
    size_bytes: int
    report: Mapping[str, Any] | None
    misses: Mapping[str, Sequence[str]]

    def is_of(self, method: str, concept: str, under: Mapping[str, Any]) -> bool:
        """Return whether the cell is this one, measured under these conditions."""
        return (self.method, self.concept, self.under) == (method, concept, under)


def read(path: Path) -> list[Cell]:
    """Return the cells of earlier runs; none where there were none."""
    return [
        Cell(**(line | {"measures": {name: Measure(**counts) for name, counts in line["measures"].items()}}))
        for line in lines.read(path)
    ]


def append(path: Path, cell: Cell) -> None:
    """Add a cell, on a line of its own."""
    lines.append(path, [asdict(cell)])


def forget(path: Path, methods: Sequence[str], concepts: Sequence[str]) -> None:
    """Drop the cells of these methods and concepts."""
    kept = [cell for cell in read(path) if cell.method not in methods or cell.concept not in concepts]
    lines.rewrite(path, map(asdict, kept))

"""Cells survive a stop, also one in the middle of a line."""

from pathlib import Path

from bench import cells
from bench.cells import Cell
from bench.measures import Measure

UNDER = {"model": "sha256:1", "settings": {"rank": 8}}


def a_cell(method: str, concept: str, seconds: float = 1.0) -> Cell:
    return Cell(
        method, concept, UNDER, {"erased": Measure(4, 4, 0, 0)}, seconds, {"train": 1.0}, 1, 99, {"a": {"b": 1}}, {}
    )


def test_cells_come_back_as_they_were_and_a_torn_line_is_measured_again(tmp_path: Path):
    path = tmp_path / "new" / "cells.jsonl"
    assert cells.read(path) == []
    cells.append(path, a_cell("uce", "dog"))
    with path.open("a") as file:
        file.write('{"method": "esd_x", "conc')
    assert cells.read(path) == [a_cell("uce", "dog")]
    cells.append(path, a_cell("esd_x", "dog"))
    assert cells.read(path) == [a_cell("uce", "dog"), a_cell("esd_x", "dog")]


def test_only_chosen_cells_are_forgotten(tmp_path: Path):
    path = tmp_path / "cells.jsonl"
    kept = [a_cell("uce", "cat"), a_cell("esd_x", "dog")]
    for cell in (kept[0], a_cell("uce", "dog"), kept[1]):
        cells.append(path, cell)
    cells.forget(path, ["uce"], ["dog"])
    assert cells.read(path) == kept


def test_a_cell_under_other_settings_is_another():
    cell = a_cell("uce", "dog")
    assert cell.is_of("uce", "dog", dict(UNDER))
    assert not cell.is_of("uce", "dog", UNDER | {"settings": {"rank": 4}})
    assert not cell.is_of("uce", "cat", UNDER)

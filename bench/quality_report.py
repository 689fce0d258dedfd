"""The quality bench's cells as one table, for people (Markdown) and programs (JSON)."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import reduce
from importlib.metadata import version
from itertools import chain
from operator import add
from statistics import median
from typing import Any

from bench.cells import Cell
from bench.measures import ERASED, Measure
from bench.seeing import Share
from training.world import OBJECTS
from unsee_core.methods import DEFAULT_METHOD

PAPER = "few_shot_lora"
POOLED = {
    "objects and looks, UA": ("erased",),
    "objects and looks, IRA": ("retained",),
    "objects and looks, CRA": ("other_kind",),
    "all that is gone by name or synonym": ("erased", "synonyms"),
    "all others kept": ("retained", "near"),
}
GOALS = {
    "objects": {
        "erased": 0.97, "retained": 0.97, "near": 0.93, "other_kind": 0.98, "other_in_pairs": 0.95, "synonyms": 0.80,
    },
    "looks": {"erased": 0.97, "retained": 0.97, "other_kind": 0.98, "synonyms": 0.80},
}  # fmt: skip
COLUMNS = {
    "erased": "UA",
    "retained": "IRA",
    "near": "near IRA",
    "other_kind": "CRA",
    "other_in_pairs": "other of two kept",
    "erased_in_pairs": "concept of two gone",
    "subject": "object kept",
    "synonyms": "synonyms erased",
}
LEGEND = (
    "UA: of all pictures that ask for the concept, those that do not show it. IRA: of the pictures of other concepts "
    "of its kind that were right before, those that still are; near IRA: of the five nearest objects alone. CRA: the "
    "same for the other kind, an object's look or a look's object. Two objects in one prompt: the other one is still "
    "seen where it was seen before; the concept is not seen. Object kept: in the pictures that asked for the erased "
    "look. Synonyms: never given to the method, which knew the concept by its name alone. Brackets: Wilson bounds, "
    "95 %, of so many pictures. All methods answer the same prompts from the same latents."
)


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return figures by kind and method, and under "unedited" those of the model before."""
    return {kind: _by_method(of_kind) for kind, of_kind in _by_kind(cells).items()}


def _by_kind(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    kinds = {
        "objects": [cell for cell in cells if cell.concept in OBJECTS],
        "looks": [cell for cell in cells if cell.concept not in OBJECTS],
    }
    return {kind: of_kind for kind, of_kind in kinds.items() if of_kind}


def _by_method(cells: Sequence[Cell]) -> dict[str, Any]:
    methods = dict.fromkeys(cell.method for cell in cells)
    rows = {method: [cell for cell in cells if cell.method == method] for method in methods}
    any_method = {cell.concept: cell for cell in cells}.values()
    unedited = {name: _unedited(name, measure) for name, measure in totals(list(any_method)).items()}
    return {"unedited": {"concepts": len(any_method), **unedited}} | {
        method: _row(of_method) for method, of_method in rows.items()
    }


def _row(cells: Sequence[Cell]) -> dict[str, Any]:
    seconds = [cell.seconds for cell in cells]
    return {
        "concepts": len(cells),
        **{name: _figures(name, measure) for name, measure in totals(cells).items()},
        "seconds": {"median": round(median(seconds), 3), "max": round(max(seconds), 3)},
        "size_bytes": max(cell.size_bytes for cell in cells),
    }


def totals(cells: Sequence[Cell]) -> dict[str, Measure]:
    """Return the counts of cells added up, measure by measure."""
    names = dict.fromkeys(name for cell in cells for name in cell.measures)
    return {name: reduce(add, (cell.measures[name] for cell in cells if name in cell.measures)) for name in names}


def _figures(name: str, measure: Measure) -> dict[str, Any]:
    counts = {
        "before": round(measure.before / measure.of, 4),
        "after": round(measure.after / measure.of, 4),
        "of_unedited": round(measure.of_unedited, 4),
    }
    return _bounds(_good(name, measure)) | counts


def _good(name: str, measure: Measure) -> Share:
    """Return what should be large: what is gone of a concept, what is kept of all else."""
    return measure.gone if name in ERASED else measure.kept


def _unedited(name: str, measure: Measure) -> dict[str, Any]:
    shown = Share(measure.before, measure.of)
    return _bounds(Share(measure.of - measure.before, measure.of) if name in ERASED else shown)


def _bounds(share: Share) -> dict[str, Any]:
    low, high = share.wilson()
    return {"value": round(share.value, 4), "low": round(low, 4), "high": round(high, 4), "pictures": share.of}


def content_of(cells: Sequence[Cell], *, command: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that is written down but the cells themselves.

    Args:
        cells: at least one, all under the same conditions.
        command: that repeats the run.
        about: budget, half and conditions.
    """
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "numpy")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cells[0].threads} threads",
        "versions": {"python": platform.python_version(), **packages},
        **about,
        "goals": GOALS,
        "summary": summary(cells),
        "concepts": {f"{cell.method}, {cell.concept}": _row([cell]) for cell in cells},
        "settings": {cell.method: dict(cell.under["settings"]) for cell in cells},
    }


def markdown(
    content: Mapping[str, Any],
    cells: Sequence[Cell],
    picture: str,
    beside: Sequence[str] = (),
    of_all_seeds: Sequence[Cell] = (),
) -> str:
    """Return the report for people.

    Args:
        content: of ``content_of``.
        cells: what it tells of.
        picture: the grid's file name.
        beside: lines of what stands beside an adapter at inference, where that was measured.
        of_all_seeds: these cells and those of the seeds before, if there are any.
    """
    head = [
        "# Quality of erasing",
        "",
        f"`{content['command']}`, {content['date']}, {content['machine']}; {content['versions']}. "
        f"{content['under']}; {content['half']} half, budget {content['budget']}.",
        "",
        LEGEND,
    ]
    tables = chain.from_iterable(_table(kind, rows) for kind, rows in content["summary"].items())
    at_inference = ["", "## Beside an adapter at inference", "", *beside] if beside else []
    return "\n".join(
        [
            *head,
            *tables,
            *default_beside_paper(cells),
            *default_beside_paper(of_all_seeds, "all seeds so far together"),
            *at_inference,
            *_concepts(cells),
            "",
            f"![]({picture})",
            "",
        ]
    )


def _table(kind: str, rows: Mapping[str, Any]) -> list[str]:
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    goals = [f"{GOALS[kind][name]:.0%}" if name in GOALS[kind] else "" for name in names]
    shares = [
        f"| {method}{_fewer(row, rows)} | "
        + " | ".join(_share(row[name]) if name in row else "" for name in names)
        + _cost(row)
        for method, row in rows.items()
    ]
    ratios = [
        f"| {method} | " + " | ".join(_ratio(row[name]) if name in row else "" for name in names) + " |"
        for method, row in rows.items()
        if method != "unedited"
    ]
    titles = " | ".join(COLUMNS[name] for name in names)
    return [
        "",
        f"## {kind.capitalize()}, {rows['unedited']['concepts']}",
        "",
        f"| method | {titles} | seconds (slowest) | bytes |",
        "|---" * (len(names) + 3) + "|",
        f"| goal | {' | '.join(goals)} | | |",
        *shares,
        "",
        "What is still seen, absolute, and as a share of the unedited model's:",
        "",
        f"| method | {titles} |",
        "|---" * (len(names) + 1) + "|",
        *ratios,
    ]


def default_beside_paper(cells: Sequence[Cell], of: str = "") -> list[str]:
    """Return where the server's default and the paper's method differ, and whether by more than chance.

    Args:
        cells: of both methods; others are passed over.
        of: what cells these are, where a report has several such tables.
    """
    lines, pooled = [], {what: (Share(0, 0), Share(0, 0)) for what in POOLED}
    for kind, of_kind in _by_kind(cells).items():
        sides = [totals([cell for cell in of_kind if cell.method == method]) for method in (DEFAULT_METHOD, PAPER)]
        for name in (name for name in COLUMNS if all(name in side for side in sides)):
            own, other = (_good(name, side[name]) for side in sides)
            if own != other:
                lines.append(_apart(f"{kind}, {COLUMNS[name]}", own, other))
            for what in (what for what, names in POOLED.items() if name in names):
                pooled[what] = pooled[what][0] + own, pooled[what][1] + other
    if lines:
        lines += [_apart(what, *both) for what, both in pooled.items() if both[0].of]
    head = [
        "",
        f"## {DEFAULT_METHOD}, the default, beside {PAPER}{f': {of}' if of else ''}",
        "",
        "Where they differ, and sums over both kinds. Chance: how often it alone sets two equal methods as far apart "
        "(Fisher's exact test, two-sided).",
        "",
        f"| of | {DEFAULT_METHOD} | {PAPER} | chance |",
        "|---" * 4 + "|",
    ]
    return [*head, *lines] if lines else []


def _apart(what: str, own: Share, other: Share) -> str:
    chance = own.chance(other)
    told = "below 0.01" if chance < 0.01 else f"{chance:.2f}"
    return f"| {what} | {own.hits} of {own.of} | {other.hits} of {other.of} | {told} |"


def _fewer(row: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """Return of how many concepts a row is, where it is not all of them."""
    count = row["concepts"]
    return "" if count == rows["unedited"]["concepts"] else f" ({count} of them)"


def _share(figures: Mapping[str, Any]) -> str:
    if not figures["pictures"]:
        return "none"
    bounds = f"[{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]"
    return f"{100 * figures['value']:.1f} % {bounds} of {figures['pictures']}"


def _ratio(figures: Mapping[str, Any]) -> str:
    if not figures["pictures"]:
        return "none"
    return f"{figures['after']:.1%} ({figures['of_unedited']:.1%})"


def _cost(row: Mapping[str, Any]) -> str:
    if "seconds" not in row:
        return " | | |"
    return f" | {row['seconds']['median']:.2f} ({row['seconds']['max']:.2f}) | {row['size_bytes']:,} |"


def _concepts(cells: Sequence[Cell]) -> list[str]:
    """Return one line for each cell, without bounds."""
    lines = ["", "## Concepts", "", "| concept | method | " + " | ".join(COLUMNS.values()) + " | seconds |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for cell in cells:
        shares = {name: _good(name, measure) for name, measure in cell.measures.items()}
        known = {name: share for name, share in shares.items() if share.of}
        texts = [f"{100 * known[name].value:.0f} %" if name in known else "" for name in COLUMNS]
        lines.append(f"| {cell.concept} | {cell.method} | {' | '.join(texts)} | {cell.seconds:.2f} |")
    return lines


def about(*, budget: str, half: str, under: Any, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``content_of`` says about the run."""
    return {"budget": budget, "half": half, "under": asdict(under), "pictures_of_a_cell": sizes}

"""Rows of measured erasures as JSON and Markdown."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.painting import Sampler
from bench.seeing import Score, Share
from bench.splits import MEASURED_LOOKS, MEASURED_OBJECTS
from unsee_core.methods import few_shot_lora

GOALS = {"ua": 0.9, "ira": 0.9, "seconds": 60.0}
ERASURE_SEED = 0
COMMAND = "python -m bench.few_shot"


@dataclass(frozen=True)
class Row:
    """One concept's figures and misses."""

    concept: str
    retain: str
    seconds: float
    threads: int
    score: Score
    object_kept: Share | None
    still_shown: tuple[str, ...]
    lost: tuple[str, ...]
    settings: Mapping[str, object]
    model_digest: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same measurement."""
        return self.concept, self.retain, self.model_digest


def read(path: Path) -> list[Row]:
    """Return the rows of earlier runs; none where there were none."""
    if not path.exists():
        return []
    return [_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _row(values: dict[str, Any]) -> Row:
    kept = values["object_kept"]
    rebuilt = {
        "score": Score(**{name: Share(**share) for name, share in values["score"].items()}),
        "object_kept": Share(**kept) if kept else None,
        "still_shown": tuple(values["still_shown"]),
        "lost": tuple(values["lost"]),
    }
    return Row(**(values | rebuilt))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures over all rows of one kind of retain prompts, with their Wilson bounds and the goals."""
    figures: dict[str, Any] = {}
    for kind, chosen in (("objects", MEASURED_OBJECTS), ("looks", MEASURED_LOOKS)):
        scores = [row.score for row in rows if row.concept in chosen]
        if not scores:
            continue
        after, before = (sum(getattr(s, f"accuracy_{side}").hits for s in scores) for side in ("after", "before"))
        figures[kind] = {
            "ua": _with_bounds([s.ua for s in scores]),
            "ira": _with_bounds([s.ira for s in scores]),
            "cra": _with_bounds([s.cra for s in scores]),
            "shown_before": _with_bounds([s.shown_before for s in scores]),
            "accuracy_after_over_before": round(after / before, 4),
        }
    figures["slowest_seconds"] = max(row.seconds for row in rows)
    return figures


def _with_bounds(shares: Iterable[Share]) -> dict[str, float]:
    total = sum(shares, Share(0, 0))
    low, high = total.wilson()
    return {"value": round(total.value, 4), "low": round(low, 4), "high": round(high, 4), "pictures": total.of}


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything that is written down."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "numpy")}
    kinds = sorted({row.retain for row in rows})
    sampler = Sampler()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": COMMAND,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rows[0].threads} threads, CPU",
        "versions": {"python": platform.python_version(), **packages},
        "model_digest": rows[0].model_digest,
        "settings": rows[0].settings,
        "recipes": {kind: asdict(recipe) for kind, recipe in few_shot_lora.RECIPES.items()},
        "sampler": {
            "steps": sampler.steps,
            "guidance_scale": sampler.guidance_scale,
            "scheduler": sampler.scheduler.value,
        },
        "seeds": f"erasure {ERASURE_SEED}; pictures 1000-4049, by question",
        "goals": GOALS,
        "summary": {kind: summary([row for row in rows if row.retain == kind]) for kind in kinds},
        "rows": [asdict(row) for row in rows],
    }


def markdown(content: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the report for people."""
    lines = [
        "# few_shot_lora on the embedded model",
        "",
        f"`{content['command']}`, {content['date']}, {content['machine']}; {_words(content['versions'])}.",
        "",
        f"- Model: {content['model_digest'][:19]}...",
        f"- Pictures: {_words(content['sampler'])}; seeds: {content['seeds']}.",
        f"- Settings: {_words(content['settings'])}.",
        *(f"- Recipe of a concept of kind {kind}: {_words(recipe)}." for kind, recipe in content["recipes"].items()),
        "",
        "UA: the concept's pictures that no longer show it. IRA: others of its kind that were right and still are. "
        "CRA: the other kind. Brackets: Wilson bounds, 95 %. *own*: with the server's own retain prompts; *world*: the "
        "model's other objects and looks given as retain prompts too.",
    ]
    for kind, figures in content["summary"].items():
        lines += ["", f"## Retain prompts: {kind}", "", *_summary_lines(figures, content["goals"]), ""]
        lines += [
            "| concept | seconds | shown before | UA | IRA | CRA | object kept |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [line(row) for row in rows if row.retain == kind]
        lines += ["", "Misses:", ""]
        lines += [f"- {row.concept}: {_misses(row)}" for row in rows if row.retain == kind and _misses(row)]
    return "\n".join(lines) + "\n"


def _summary_lines(figures: dict[str, Any], goals: dict[str, float]) -> list[str]:
    """Return the table of what was reached over all concepts, and the slowest erasure."""
    rows = [
        "| over all | shown before | UA | IRA | CRA | accuracy after / before |",
        "|---|---|---|---|---|---|",
        f"| goal | | >= {goals['ua']:.0%} | | | >= {goals['ira']:.0%} |",
    ]
    for kind in ("objects", "looks"):
        if kind in figures:
            cells = [
                f"{one['value']:.1%} of {one['pictures']} [{one['low']:.1%}, {one['high']:.1%}]"
                for one in (figures[kind][name] for name in ("shown_before", "ua", "ira", "cra"))
            ]
            rows.append(f"| {kind} | {' | '.join(cells)} | {figures[kind]['accuracy_after_over_before']:.1%} |")
    slowest = (
        f"The slowest erasure took {figures['slowest_seconds']:.1f} s; the goal is under {goals['seconds']:.0f} s."
    )
    return [*rows, "", slowest]


def _words(content: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in content.items())


def line(row: Row) -> str:
    """Return a row of the Markdown table."""
    s = row.score
    cells = [_cell(share) for share in (s.shown_before, s.ua, s.ira, s.cra)]
    kept = _cell(row.object_kept) if row.object_kept else ""
    return f"| {row.concept} | {row.seconds:.1f} | {' | '.join(cells)} | {kept} |"


def _cell(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.value:.0%} ({share.hits}/{share.of}) [{low:.0%}, {high:.0%}]"


def _misses(row: Row) -> str:
    shown = f"still shown: {'; '.join(row.still_shown)}" if row.still_shown else ""
    lost = f"lost: {'; '.join(row.lost)}" if row.lost else ""
    return ". ".join(filter(None, (shown, lost)))


def reached(figures: dict[str, Any]) -> bool:
    """Return whether every goal is reached."""
    kinds = [figures[kind] for kind in ("objects", "looks") if kind in figures]
    erased = all(kind["ua"]["value"] >= GOALS["ua"] for kind in kinds)
    kept = all(kind["accuracy_after_over_before"] >= GOALS["ira"] for kind in kinds)
    return erased and kept and figures["slowest_seconds"] < GOALS["seconds"]

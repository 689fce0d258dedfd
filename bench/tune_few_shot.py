"""Settles few_shot_lora's unpublished values on the tuning concepts. Run: ``python -m bench.tune_few_shot``.

One value is changed at a time around the settled recipe. Every finished try is a line in
``bench/results/few_shot_tuning.jsonl``; a second run goes on from there, and writes ``few_shot_tuning.md``.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import judges
from bench.drawing import MODEL
from bench.erasing import erase_job, questions_of
from bench.few_shot import RESULTS, erase
from bench.painting import Sampler
from bench.seeing import Score, Studio, score
from bench.splits import TUNING_LOOKS, TUNING_OBJECTS
from training.world import OBJECTS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.methods.few_shot_lora import RECIPES, Recipe
from unsee_core.pipeline import load_pipeline

CONCEPTS = ("cat", "plane", "pixel art")
PICTURES = 20
SAMPLER = Sampler(steps=10)
TRIED: dict[str, tuple[float, ...]] = {
    "steps": (10, 20, 80),
    "margin": (1.0, 1.5, 2.0, 3.0),
    "retain_weight": (3.0, 20.0, 50.0),
    "retain_rows": (24, 64),
    "learning_rate": (5e-3, 2e-2),
    "layers": (1, 3),
    "rank": (4, 16),
}
_SETTINGS = frozenset({"steps", "layers", "rank"})


@dataclass(frozen=True)
class Try:
    """One concept erased with one value changed; ``value`` None: the recipe as settled."""

    concept: str
    name: str
    value: float | None

    def settings(self) -> dict[str, Any]:
        """Return what the job sets."""
        if self.name == "layers":
            return {"options": {"layers": self.value}}
        return {self.name: self.value} if self.name in _SETTINGS else {}

    def recipe(self) -> Recipe:
        """Return the recipe with the value changed."""
        settled = RECIPES["object" if self.concept in OBJECTS else "style"]
        if self.name in _SETTINGS or self.value is None:
            return settled
        changed: dict[str, Any] = {self.name: self.value}
        return replace(settled, **changed)


def tries(concepts: Sequence[str], names: Sequence[str]) -> Iterator[Try]:
    """Yield the settled recipe for each concept, then every change of it."""
    yield from (Try(concept, "settled", None) for concept in concepts)
    for name in names:
        changes = [Try(concept, name, value) for concept in concepts for value in TRIED[name]]
        yield from (one for one in changes if one.settings() or one.recipe() != replace(one, value=None).recipe())


def measure(studio: Studio, one: Try) -> tuple[Score, float]:
    """Return a try's figures and the seconds it took."""
    questions = questions_of(one.concept, pictures=PICTURES)
    factors, seconds = erase(studio.pipeline, erase_job(one.concept, **one.settings()), one.recipe())
    adapter = AppliedAdapter(digest="sha256:" + "0" * 64, factors=factors, weight=1.0)
    before, after = studio.look_at(one.concept, questions), studio.look_at(one.concept, questions, [adapter])
    return score(before, after), seconds


def line(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    value = "" if row["value"] is None else f"{row['value']:g}"
    shares = [
        f"{share['hits']}/{share['of']}" for share in (row[name] for name in ("shown_before", "ua", "ira", "cra"))
    ]
    return f"| {row['concept']} | {row['name']} | {value} | {' | '.join(shares)} | {row['seconds']:.1f} |"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of everything that was tried."""
    recipes = {kind: asdict(RECIPES[kind]) for kind in ("object", "style")}
    head = [
        "# What was tried for few_shot_lora",
        "",
        f"`python -m bench.tune_few_shot`; model {rows[0]['model'][:19]}...; {PICTURES} pictures of a concept, "
        f"{SAMPLER.steps} steps of DPM++ 2M; one value changed at a time around {recipes}. Seconds beside other work.",
        "",
        "| concept | changed | to | shown before | UA | IRA | CRA | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line(row) for row in rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what was not tried yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=(*TUNING_OBJECTS, *TUNING_LOOKS))
    parser.add_argument("--names", nargs="*", default=tuple(TRIED), choices=tuple(TRIED))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    pipeline = load_pipeline(options.model, device="cpu", dtype="float32")
    studio = Studio(pipeline, judges.load(), SAMPLER)
    path = options.results / "few_shot_tuning.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if row["model"] == pipeline.digests.model]
    done = {(row["concept"], row["name"], row["value"], row["recipe"]) for row in rows}
    for one in tries(options.concepts, options.names):
        recipe = str(one.recipe())
        if (one.concept, one.name, one.value, recipe) in done:
            continue
        figures, seconds = measure(studio, one)
        rows.append(
            {**asdict(one), **asdict(figures), "seconds": seconds, "recipe": recipe, "model": pipeline.digests.model}
        )
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        (options.results / "few_shot_tuning.md").write_text(markdown(rows))
        print(line(rows[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Settles the baselines' settings on the tuning half. Run: ``python -m bench.tune_baselines``.

Every try, a recipe with values changed on one concept, is a line in ``bench/results/baselines_tuning.jsonl``; a second
run goes on from there, and writes ``baselines_tuning.md``.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import lines
from bench.asking import Sizes, asked_of
from bench.baselines import BASELINES
from bench.drawing import MODEL
from bench.editing import edit_by_baseline, job_of
from bench.eyes import OwnJudge
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.measures import measures_of
from bench.painting import FAST
from bench.seeing import Share
from unsee_core.pipeline import load_pipeline

CONCEPTS = ("cat", "plane", "pixel art")
SIZES = Sizes(erased=20, retained=25, near=0, pairs=0, synonyms=0)
TRIED: dict[str, tuple[dict[str, float], ...]] = {
    "uce": ({}, {"preserve": 3.0}, {"preserve": 10.0}, {"preserve": 0.3}, {"ridge": 1e-2}, {"ridge": 1e-4}),
    "esd_x": ({}, {"learning_rate": 5e-5}, {"learning_rate": 5e-4}, {"eta": 3.0}),
    "few_shot_unlearning": tuple({"learning_rate": rate} for rate in (1e-5, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 1e-3)),
}


def attempt(gallery: Gallery, name: str, recipe: Any, concept: str) -> dict[str, Any]:
    """Return what a baseline leaves of a concept under a recipe."""
    asked = asked_of(concept, SIZES)
    baseline = replace(BASELINES[name], recipe=recipe)
    edited = edit_by_baseline(gallery.pipeline, baseline, job_of(concept, name))
    before, after = gallery.compare(edited.model, asked.all())
    counts = measures_of(concept, asked, before, after)
    shares = {"ua": counts["erased"].gone, "ira": counts["retained"].kept, "cra": counts["other_kind"].kept}
    return {**{key: asdict(share) for key, share in shares.items()}, "seconds": round(edited.seconds, 2)}


def markdown(tries: Sequence[dict[str, Any]]) -> str:
    """Return the table of everything that was tried."""
    head = [
        "# What was tried for the baselines",
        "",
        f"`python -m bench.tune_baselines`; {', '.join(CONCEPTS)}; {SIZES.erased} and {SIZES.retained} pictures; "
        f"{tries[0]['under']}. Seconds beside other work.",
        "",
        "| baseline | recipe | concept | UA | IRA | CRA | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line(one) for one in tries)]) + "\n"


def line(one: dict[str, Any]) -> str:
    """Return a row of the table."""
    shares = " | ".join(f"{Share(**one[key]).value:.0%} of {one[key]['of']}" for key in ("ua", "ira", "cra"))
    recipe = ", ".join(f"{key} {value:g}" for key, value in one["recipe"].items())
    return f"| {one['baseline']} | {recipe} | {one['concept']} | {shares} | {one['seconds']:.1f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what was not tried yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--baselines", nargs="+", default=tuple(TRIED), choices=tuple(TRIED))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    pipeline = load_pipeline(options.model, device="cpu")
    gallery = Gallery(pipeline, OwnJudge(), FAST, options.results / "cache" / "unedited.jsonl")
    path, under = options.results / "baselines_tuning.jsonl", asdict(gallery.conditions)
    tries = [one for one in lines.read(path) if one["under"] == under]
    done = [(one["baseline"], one["recipe"], one["concept"]) for one in tries]
    for name in options.baselines:
        for changes in TRIED[name]:
            recipe = replace(BASELINES[name].recipe, **changes)
            for concept in CONCEPTS:
                if (name, asdict(recipe), concept) in done:
                    continue
                about = {"baseline": name, "recipe": asdict(recipe), "concept": concept, "under": under}
                tries.append(about | attempt(gallery, name, recipe, concept))
                lines.append(path, tries[-1:])
                path.with_suffix(".md").write_text(markdown(tries), encoding="utf-8")
                print(line(tries[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

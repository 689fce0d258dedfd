"""How many steps few_shot_lora needs. Run: ``python -m bench.steps_curve``.

On the tuning concepts, objects and looks apart: the share of pictures that no longer show the concept, by number of
steps. The fewest steps within two points of the best, of the kind that needs more of them, are what other methods'
seconds are compared with, in ``bench.speed``. Every point is a line in ``bench/results/few_shot_steps.jsonl``; a second
run goes on from there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import lines
from bench.asking import Sizes, asked_of
from bench.drawing import MODEL
from bench.editing import edit, job_of
from bench.eyes import OwnJudge
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.measures import measures_of
from bench.painting import FAST
from bench.seeing import Share
from bench.splits import TUNING_LOOKS, TUNING_OBJECTS
from unsee_core.pipeline import load_pipeline

METHOD = "few_shot_lora"
STEPS = (5, 10, 20, 40, 80)
CONCEPTS = (*TUNING_OBJECTS, *TUNING_LOOKS)
SIZES = Sizes(erased=50, retained=25, near=0, pairs=0, synonyms=0)
TOLERANCE = 0.02


def point(gallery: Gallery, name: str, steps: int) -> dict[str, Any]:
    """Return what a concept's erasure in so many steps leaves, and its seconds."""
    asked = asked_of(name, SIZES)
    edited = edit(gallery.pipeline, METHOD, replace(job_of(name, METHOD), steps=steps))
    before, after = gallery.compare(edited.model, asked.all())
    counts = measures_of(name, asked, before, after)
    shares = {"ua": asdict(counts["erased"].gone), "ira": asdict(counts["retained"].kept)}
    return {"concept": name, "steps": steps, **shares, "seconds": round(edited.seconds, 2)}


def curve(points: Sequence[dict[str, Any]]) -> dict[int, dict[str, Share]]:
    """Return UA and IRA over all concepts, by number of steps."""
    by_steps: dict[int, dict[str, Share]] = {}
    for one in sorted(points, key=lambda one: int(one["steps"])):
        sums = by_steps.setdefault(one["steps"], {"ua": Share(0, 0), "ira": Share(0, 0)})
        for name in sums:
            sums[name] += Share(**one[name])
    return by_steps


def fewest_steps(by_steps: dict[int, dict[str, Share]]) -> int:
    """Return the fewest steps whose UA is within two points of the best."""
    best = max(shares["ua"].value for shares in by_steps.values())
    return min(steps for steps, shares in by_steps.items() if shares["ua"].value >= best - TOLERANCE)


def kind_of(concept: str) -> str:
    """Return the kind of a tuning concept, as the tables name it."""
    return "looks" if concept in TUNING_LOOKS else "objects"


def markdown(points: Sequence[dict[str, Any]]) -> str:
    """Return the curves as tables, one a kind."""
    text = [
        f"# {METHOD}: how many steps",
        "",
        f"`python -m bench.steps_curve`; model {points[0]['under']['model']}.... UA and IRA (others of its kind) with "
        "Wilson bounds, 95 %. Seconds beside other work.",
    ]
    for kind in dict.fromkeys(kind_of(one["concept"]) for one in points):
        own = [one for one in points if kind_of(one["concept"]) == kind]
        by_steps = curve(own)
        text += ["", f"## {kind.capitalize()}: {', '.join(dict.fromkeys(one['concept'] for one in own))}", ""]
        text += [f"Fewest steps within {TOLERANCE:.0%} of the best UA: **{fewest_steps(by_steps)}**.", ""]
        text += ["| steps | UA | IRA | mean seconds |", "|---|---|---|---|"]
        for steps, shares in by_steps.items():
            seconds = [one["seconds"] for one in own if one["steps"] == steps]
            cells = [f"{s.value:.1%} [{s.wilson()[0]:.1%}, {s.wilson()[1]:.1%}] of {s.of}" for s in shares.values()]
            text.append(f"| {steps} | {' | '.join(cells)} | {sum(seconds) / len(seconds):.1f} |")
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the points that are missing, and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=CONCEPTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    pipeline = load_pipeline(options.model, device="cpu")
    gallery = Gallery(pipeline, OwnJudge(), FAST, options.results / "cache" / "unedited.jsonl")
    path = options.results / "few_shot_steps.jsonl"
    under = asdict(gallery.conditions)
    points = [one for one in lines.read(path) if one["under"] == under]
    done = {(one["concept"], one["steps"]) for one in points}
    for name, steps in ((name, steps) for name in options.concepts for steps in STEPS):
        if (name, steps) not in done:
            points.append({**point(gallery, name, steps), "under": under})
            lines.append(path, points[-1:])
            print({key: value for key, value in points[-1].items() if key != "under"}, flush=True)

    curves = {
        kind: curve([one for one in points if kind_of(one["concept"]) == kind])
        for kind in dict.fromkeys(kind_of(one["concept"]) for one in points)
    }
    content = {
        "fewest_steps": {kind: fewest_steps(by_steps) for kind, by_steps in curves.items()},
        "model": under["model"],
        "curves": {
            kind: {steps: {name: asdict(share) for name, share in shares.items()} for steps, shares in by_steps.items()}
            for kind, by_steps in curves.items()
        },
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(points), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The figures on the embedded model's card. Run: ``python -m bench.model_card``; ``--write`` records them anew.

Without ``--write`` it draws everything again and fails if a recorded figure is off by more than its error bound.
"""

import argparse
import json
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from bench import judges, prompts
from bench.drawing import GUIDANCE_SCALE, MODEL, STEPS, Images, confusion_picture, draw, load_pipeline, sheet
from bench.prompts import Question
from training.world import LOOKS, OBJECTS

RESULTS = Path(__file__).parent / "results" / "model_card.json"
COMMAND = "python -m bench.model_card --write"
FIGURES_BEGIN, FIGURES_END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Figure:
    """A share of pictures judged right.

    Attributes:
        value: share in [0, 1].
        pictures: how many were judged.
        error_bound: two standard errors, and half a picture for a share of 0 or 1.
        goal: share to reach, or None where none was set.
    """

    value: float
    pictures: int
    error_bound: float
    goal: float | None


def figure(right: list[bool], goal: float | None = None) -> Figure:
    """Return the share of True with its error bound."""
    share = sum(right) / len(right)
    bound = 2 * math.sqrt(share * (1 - share) / len(right)) + 0.5 / len(right)
    return Figure(round(share, 4), len(right), round(bound, 4), goal)


def objects_right(judge: judges.Judges, questions: list[Question], images: Images) -> list[bool]:
    """Return for each picture of one object whether it shows that object."""
    return [name == question.objects[0] for name, question in zip(judge.objects(images).names, questions, strict=True)]


def looks_right(judge: judges.Judges, questions: list[Question], images: Images) -> list[bool]:
    """Return for each picture whether it has the look asked for."""
    return [name == question.look for name, question in zip(judge.looks(images).names, questions, strict=True)]


def confusions(judge: judges.Judges, questions: list[Question], images: Images) -> NDArray[np.int64]:
    """Return ``(objects, objects)`` counts of asked against seen."""
    counts = np.zeros((len(OBJECTS), len(OBJECTS)), np.int64)
    for name, question in zip(judge.objects(images).names, questions, strict=True):
        counts[OBJECTS.index(question.objects[0]), OBJECTS.index(name)] += 1
    return counts


def measure(
    pipeline: StableDiffusionPipeline, judge: judges.Judges, *, guidance_scale: float
) -> tuple[dict[str, Figure], NDArray[np.int64], Images]:
    """Return every figure by name, the confusions of single-object prompts of all looks, and the contact sheet."""

    def drawn(questions: list[Question]) -> tuple[list[Question], Images]:
        return questions, draw(pipeline, questions, guidance_scale=guidance_scale)

    plain, styled = drawn(prompts.plain(per_object=10)), drawn(prompts.looks(per_object=1))
    pairs = drawn(prompts.pairs(count=120))
    synonyms, held_out = drawn(prompts.synonyms(per_synonym=4)), drawn(prompts.held_out())
    plain_right, styled_right = objects_right(judge, *plain), objects_right(judge, *styled)
    left, right = judge.pairs(pairs[1])
    seen = list(zip(left.names, right.names, strict=True))
    asked = [question.objects for question in pairs[0]]
    figures = {
        "object, all single-object prompts": figure(plain_right + styled_right, 0.92),
        "object, plain": figure(plain_right),
        "object, in a look": figure(styled_right),
        "look": figure(looks_right(judge, *plain) + looks_right(judge, *styled), 0.95),
        "both of two objects": figure([set(a) == set(b) for a, b in zip(seen, asked, strict=True)], 0.7),
        "both of two objects, in the order said": figure([a == b for a, b in zip(seen, asked, strict=True)]),
        "object, by a synonym": figure(objects_right(judge, *synonyms), 0.85),
        "object, held-out templates": figure(objects_right(judge, *held_out)),
    }
    styled_look_right = looks_right(judge, *styled)
    for look in LOOKS[1:]:
        chosen = [number for number, question in enumerate(styled[0]) if question.look == look]
        figures[f"object, {look}"] = figure([styled_right[number] for number in chosen])
        figures[f"look, {look}"] = figure([styled_look_right[number] for number in chosen])
    return figures, confusions(judge, *plain) + confusions(judge, *styled), contact_sheet(plain, styled, pairs)


def contact_sheet(*drawn: tuple[list[Question], Images]) -> Images:
    """Return of plain, styled and two-object pictures: each object once, each fifth in each look, ten pairs."""
    (_, plain), (questions, styled), (_, pairs) = drawn
    every_fifth = [OBJECTS.index(question.objects[0]) % 5 == 1 for question in questions]
    return np.concatenate([plain[: len(OBJECTS)], styled[every_fifth], pairs[:10]])


def differences(recorded: dict[str, Figure], measured: dict[str, Figure]) -> list[str]:
    """Return a line for each figure that is missing or off by more than the recorded error bound."""
    lines = [f"{name}: recorded or measured only" for name in sorted(recorded.keys() ^ measured.keys())]
    for name in sorted(recorded.keys() & measured.keys()):
        old, new = recorded[name], measured[name]
        if abs(old.value - new.value) > old.error_bound:
            lines.append(f"{name}: recorded {old.value:.3f} +- {old.error_bound:.3f}, measured {new.value:.3f}")
    return lines


def table(figures: dict[str, Figure]) -> str:
    """Return the figures as a Markdown table, and the confusions' picture below it."""
    rows = ["| right, by the judges | share | pictures | goal |", "|---|---|---|---|"]
    for name, one in figures.items():
        goal = "" if one.goal is None else f"{one.goal:.0%}"
        rows.append(f"| {name} | {one.value:.1%} ± {one.error_bound:.1%} | {one.pictures} | {goal} |")
    below = "Rows: what was asked. Columns: what the judge saw. Single-object prompts, all looks together."
    return "\n".join([*rows, "", "![confusions](confusion.png)", "", below])


def record(figures: dict[str, Figure], counts: NDArray[np.int64], images: Images) -> None:
    """Write the results, the table in the card, and its two pictures."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": COMMAND,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version(), **packages},
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "figures": {name: asdict(one) for name, one in figures.items()},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")
    card = MODEL / "README.md"
    before, rest = card.read_text().split(FIGURES_BEGIN)
    after = rest.split(FIGURES_END)[1]
    card.write_text(f"{before}{FIGURES_BEGIN}\n{table(figures)}\n{FIGURES_END}{after}")
    sheet(images, columns=10).save(MODEL / "contact-sheet.png", optimize=True)
    confusion_picture(counts, OBJECTS).save(MODEL / "confusion.png", optimize=True)


def main() -> int:
    """Measure; then record, or compare with what is recorded and return 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    pipeline = load_pipeline()
    measured, counts, images = measure(pipeline, judges.load(), guidance_scale=GUIDANCE_SCALE)
    sys.stdout.write(table(measured) + "\n")
    if args.write:
        record(measured, counts, images)
        return 0
    recorded = json.loads(RESULTS.read_text())["figures"]
    lines = differences({name: Figure(**one) for name, one in recorded.items()}, measured)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Tries a method with changed values on the tuning concepts. Run: ``python -m bench.explore_methods METHOD``.

Prints a row of ``bench/results/methods_explored.md`` for each concept. Draws with 10 steps of DPM++ 2M.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import torch

from bench import judges
from bench.drawing import MODEL
from bench.erasing import erase_job, questions_of
from bench.seeing import Sampler, Share, Studio, score
from bench.splits import TUNING_LOOKS, TUNING_OBJECTS
from bench.steps import run_to_end
from training.world import OBJECTS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.images import open_image
from unsee_core.job import EraseJob, Limits
from unsee_core.lora import LoraFactors
from unsee_core.methods import METHODS, EraseContext, check_job
from unsee_core.pipeline import Pipeline, load_pipeline

CONCEPTS = ("cat", "car", "rose", "plane", "pixel art")
HEAD = (
    "| method | concept | changed | shown before | UA | IRA | CRA | object kept | seconds | date | threads |\n"
    + "|---" * 11
    + "|"
)


def erase(pipeline: Pipeline, job: EraseJob, changes: dict[str, float]) -> tuple[LoraFactors, float]:
    """Return the factors of a method's recipe with values changed, and the wall-clock seconds."""
    began = time.perf_counter()
    settings = check_job(job, pipeline)
    method = import_module(f"unsee_core.methods.{settings.method}")
    images = tuple(open_image(data, "images", Limits()) for data in job.images)
    recipe = replace(method.RECIPES[job.concept.kind], **changes)
    steps = method.train(EraseContext(pipeline, job, images, settings), recipe)
    factors = run_to_end(steps).factors
    return factors, time.perf_counter() - began


def row(studio: Studio, job: EraseJob, changes: dict[str, float], said: str, pictures: int) -> str:
    """Return the figures of one erasure as a row of a Markdown table."""
    name = job.concept.name
    factors, seconds = erase(studio.pipeline, job, changes)
    questions = questions_of(name, pictures=pictures)
    adapter = AppliedAdapter(digest="sha256:" + "0" * 64, factors=factors, weight=1.0)
    before, after = studio.look_at(name, questions), studio.look_at(name, questions, [adapter])
    figures = score(before, after)
    pairs = list(zip(before.object_in_erased, after.object_in_erased, strict=True))
    kept = Share(sum(b and a for b, a in pairs), sum(b for b, _ in pairs))
    shares = [figures.shown_before, figures.ua, figures.ira, figures.cra]
    cells = [f"{share.hits}/{share.of}" for share in shares]
    cells.append("" if name in OBJECTS else f"{kept.hits}/{kept.of}")
    day = datetime.now(UTC).date().isoformat()
    cells += [f"{seconds:.0f}", day, str(torch.get_num_threads())]
    return f"| {job.method} | {name} | {said} | {' | '.join(cells)} |"


def _value(text: str) -> Any:
    return float(text) if "." in text or "e" in text else int(text)


def _assigned(items: Sequence[str]) -> dict[str, Any]:
    return {name: _value(value) for name, _, value in (item.partition("=") for item in items)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the method on each concept and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=tuple(METHODS))
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=(*TUNING_OBJECTS, *TUNING_LOOKS))
    parser.add_argument("--recipe", nargs="*", default=(), metavar="NAME=VALUE", help="fields of the method's recipe")
    parser.add_argument("--options", nargs="*", default=(), metavar="NAME=VALUE", help="options of a job")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anchor")
    parser.add_argument("--images", action="store_true", help="give the five pictures to a method that needs none")
    parser.add_argument("--pictures", type=int, default=20, help="of the concept; neighbours in proportion")
    asked = parser.parse_args(arguments)

    studio = Studio(load_pipeline(str(MODEL), device="cpu", dtype="float32"), judges.load(), Sampler(steps=10))
    settings = {"steps": asked.steps, "seed": asked.seed, "anchor": asked.anchor, "options": _assigned(asked.options)}
    said = {"steps": asked.steps, "seed": asked.seed or None, "anchor": asked.anchor, "images": asked.images or None}
    words = [f"{name} {value}" for name, value in said.items() if value is not None]
    words += [item.replace("=", " ") for item in (*asked.options, *asked.recipe)]
    print(HEAD)
    for name in asked.concepts:
        job = erase_job(name, method=asked.method, **settings)
        if not (asked.images or METHODS[asked.method].needs_images):
            job = replace(job, images=())
        print(row(studio, job, _assigned(asked.recipe), ", ".join(words), asked.pictures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

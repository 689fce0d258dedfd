"""How well few_shot_lora erases ten objects and three looks, 40 pictures each. Run: ``python -m bench.few_shot``.

Every finished concept is a line in ``bench/results/few_shot.jsonl``; a second run goes on from there. ``--afresh``
forgets them, ``--world-retain`` adds retain prompts from the model's own world.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from bench import judges
from bench.drawing import MODEL
from bench.erasing import erase_job, questions_of, world_prompts
from bench.few_shot_report import ERASURE_SEED, Row, line, markdown, reached, read, report
from bench.lines import RESULTS
from bench.painting import Sampler
from bench.prompts import Question
from bench.seeing import Seen, Share, Studio, score
from bench.splits import MEASURED_LOOKS, MEASURED_OBJECTS
from bench.steps import run_to_end
from training.world import OBJECTS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.images import open_image
from unsee_core.job import EraseJob, Limits
from unsee_core.lora import LoraFactors
from unsee_core.methods import EraseContext, check_job
from unsee_core.methods.few_shot_lora import RECIPES, Recipe, train
from unsee_core.pipeline import Pipeline, load_pipeline

MEASURED = (*MEASURED_OBJECTS, *MEASURED_LOOKS)


def erase(pipeline: Pipeline, job: EraseJob, recipe: Recipe) -> tuple[LoraFactors, float]:
    """Return the factors and the wall-clock seconds from the encoded images on."""
    began = time.perf_counter()
    settings = check_job(job, pipeline)
    images = tuple(open_image(data, "images", Limits()) for data in job.images)
    steps = train(EraseContext(pipeline, job, images, settings), recipe)
    factors = run_to_end(steps).factors
    return factors, time.perf_counter() - began


def measure(studio: Studio, name: str, *, world_retain: bool) -> Row:
    """Return one concept's row."""
    pipeline, questions = studio.pipeline, questions_of(name)
    retain_prompts = world_prompts(name) if world_retain else ()
    job = erase_job(name, method="few_shot_lora", seed=ERASURE_SEED, retain_prompts=retain_prompts)
    before = studio.look_at(name, questions)
    factors, seconds = erase(pipeline, job, RECIPES[job.concept.kind])
    adapter = AppliedAdapter(digest="sha256:" + "0" * 64, factors=factors, weight=1.0)
    after = studio.look_at(name, questions, [adapter])
    return Row(
        concept=name,
        retain="world" if world_retain else "own",
        seconds=round(seconds, 2),
        threads=torch.get_num_threads(),
        score=score(before, after),
        object_kept=None if name in OBJECTS else _object_kept(before, after),
        still_shown=_texts(questions.erased, after.erased),
        lost=_texts(
            questions.neighbours, (b and not a for b, a in zip(before.neighbours, after.neighbours, strict=True))
        ),
        settings=asdict(check_job(job, pipeline)),
        model_digest=pipeline.digests.model,
    )


def _object_kept(before: Seen, after: Seen) -> Share:
    pairs = list(zip(before.object_in_erased, after.object_in_erased, strict=True))
    return Share(sum(b and a for b, a in pairs), sum(b for b, _ in pairs))


def _texts(questions: Sequence[Question], which: Iterable[bool]) -> tuple[str, ...]:
    return tuple(f"{q.text} (seed {q.seed})" for q, chosen in zip(questions, which, strict=True) if chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not yet measured, write the results, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--judges", type=Path, default=judges.WEIGHTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--world-retain", action="store_true", help="measure with retain prompts of the model's world")
    parser.add_argument("--concepts", nargs="+", default=MEASURED, choices=MEASURED, help="only these")
    parser.add_argument("--afresh", action="store_true", help="forget the concepts that are already measured")
    options = parser.parse_args(arguments)

    pipeline = load_pipeline(options.model, device="cpu", dtype="float32")
    studio = Studio(pipeline, judges.load(options.judges), Sampler())
    options.results.mkdir(exist_ok=True)
    path = options.results / "few_shot.jsonl"
    if options.afresh:
        path.unlink(missing_ok=True)
    rows = [row for row in read(path) if row.model_digest == pipeline.digests.model]
    done = {row.key for row in rows}
    retain = "world" if options.world_retain else "own"
    for name in options.concepts:
        if (name, retain, pipeline.digests.model) in done:
            continue
        row = measure(studio, name, world_retain=options.world_retain)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        rows.append(row)
        print(line(row), flush=True)

    content = report(rows)
    (options.results / "few_shot.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (options.results / "few_shot.md").write_text(markdown(content, rows), encoding="utf-8")
    return 0 if reached(content["summary"][retain]) else 1


if __name__ == "__main__":
    sys.exit(main())

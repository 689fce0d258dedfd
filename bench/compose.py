"""Many objects erased at once: one joint solve beside the sum of single erasures. Run: ``python -m bench.compose``.

Both erase the same objects by name alone: the first of a half, or all fifty, of which one half was tuned on. The sum is
closed_form's adapters, one an object, applied together. Prompts, seeds and starting latents are the same for both. Each
count in each way is a line in ``bench/results/compose.jsonl``; a second run goes on from there, and writes tables
(Markdown and JSON) beside the lines.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import lines
from bench.asking import Sizes, asked_of
from bench.drawing import MODEL
from bench.editing import edit, job_of, timed
from bench.erasing import concept_of
from bench.eyes import OwnJudge, Sight
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.painting import FAST, Model
from bench.prompts import Question
from bench.seeing import Share
from bench.splits import OBJECT_HALVES, Half
from training.world import OBJECTS
from unsee_core.adapter import AdapterMetadata, digest, to_bytes
from unsee_core.compose import METHOD, MOST_DRIFT, RANK_OF_EACH, RECIPE, compose, compose_context
from unsee_core.conditioning import AppliedAdapter
from unsee_core.job import AnchoredConcept, ComposeJob, Concept
from unsee_core.joint_solve import Recipe
from unsee_core.methods.base import Erasure
from unsee_core.pipeline import Pipeline, load_pipeline

WAYS = ("joint solve", "sum of closed_form")
RECIPES: dict[str, dict[str, Any]] = {
    WAYS[0]: {**asdict(RECIPE), "rank_of_each": RANK_OF_EACH, "most_drift": MOST_DRIFT},
    WAYS[1]: asdict(Recipe()),
}
COUNTS = (1, 5, 20, 25, 50)


def objects_of(count: int, half: Half) -> tuple[str, ...]:
    """Return the first objects of a half; all fifty where the half has fewer."""
    return OBJECT_HALVES[half][:count] if count <= len(OBJECT_HALVES[half]) else OBJECTS[:count]


def erased_jointly(pipeline: Pipeline, names: Sequence[str]) -> tuple[Model, float, int]:
    """Return the model, the seconds and the adapter's bytes."""
    began = time.perf_counter()
    job = ComposeJob(tuple(f"no-{i}" for i in range(max(2, len(names)))))
    # A job names two adapters at least; one object's two are the same concept, which is led once.
    named = [names[min(i, len(names) - 1)] for i in range(len(job.adapters))]
    context = compose_context(pipeline, job, [(AnchoredConcept(Concept(concept_of(name).name)),) for name in named])
    erasure, _ = timed(compose(context))
    seconds = time.perf_counter() - began
    data = to_bytes(erasure.factors, _metadata(pipeline, erasure, [one.concept for one in context.concepts]))
    return Model(pipeline, (AppliedAdapter(digest(data), erasure.factors, 1.0),)), seconds, len(data)


def erased_one_by_one(pipeline: Pipeline, names: Sequence[str]) -> tuple[Model, float, int]:
    """Return the model, the seconds and the adapters' bytes, each of all together."""
    edited = [edit(pipeline, "closed_form", job_of(name, "closed_form")) for name in names]
    adapters = tuple(adapter for one in edited for adapter in one.model.adapters)
    return Model(pipeline, adapters), sum(one.seconds for one in edited), sum(one.size_bytes for one in edited)


def warm(pipeline: Pipeline) -> None:
    """Fill what is kept per model, so that no way's seconds hold it."""
    for erase in (erased_jointly, erased_one_by_one):
        erase(pipeline, OBJECTS[:1])


def questions_for(names: Sequence[str], pictures: int) -> tuple[Question, ...]:
    """Return so many questions, or a few more, that ask for each of the objects equally often."""
    each = -(-pictures // len(names)) if names else 0
    sizes = Sizes(erased=each, retained=0, near=0, pairs=0, synonyms=0)
    return tuple(question for name in names for question in asked_of(name, sizes).erased)


def measure(gallery: Gallery, way: str, names: Sequence[str], pictures: int) -> dict[str, Any]:
    """Return one line: UA over the erased objects, IRA over all others, CRA over the looks of these."""
    erase = erased_jointly if way == WAYS[0] else erased_one_by_one
    model, seconds, size = erase(gallery.pipeline, names)
    others = [name for name in OBJECTS if name not in names]
    erased, kept = questions_for(names, pictures), questions_for(others, pictures)
    before, after = gallery.compare(model, (*erased, *kept))
    shown = [question for question in kept if _is_object(question, before[question])]
    in_look = [question for question in kept if before[question].look == question.look]
    return {
        "ua": asdict(Share(sum(not _is_object(q, after[q]) for q in erased), len(erased))),
        "ira": asdict(Share(sum(_is_object(q, after[q]) for q in shown), len(shown))),
        "cra": asdict(Share(sum(after[q].look == q.look for q in in_look), len(in_look))),
        "seconds": round(seconds, 2),
        "size_bytes": size,
    }


def markdown(measured: Sequence[dict[str, Any]], command: str) -> str:
    """Return the lines as a table."""
    head = [
        "# Many objects at once",
        "",
        f"`{command}`; model {measured[0]['under']['model']}.... UA: erased objects that are no longer seen; IRA and "
        "CRA: other objects, and their looks, that were right before and still are; Wilson bounds, 95 %.",
        "",
        "| objects | of | erased by | UA | IRA | CRA | seconds | bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_row, measured)]) + "\n"


def _row(line: dict[str, Any]) -> str:
    shares = " | ".join(_told(Share(**line[name])) for name in ("ua", "ira", "cra"))
    return f"| {line['count']} | {line['half']} | {line['way']} | {shares} | {line['seconds']} | {line['size_bytes']} |"


def _told(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.value:.1%} [{low:.1%}, {high:.1%}] of {share.of}" if share.of else "none left"


def _is_object(question: Question, sight: Sight) -> bool:
    return sight.object == question.objects[0]


def _metadata(pipeline: Pipeline, erasure: Erasure, concepts: Sequence[Concept]) -> AdapterMetadata:
    rank, base = erasure.factors.rank, pipeline.base_model
    return AdapterMetadata(None, METHOD, erasure.strength, rank, 0, 0, {}, base, {}, tuple(concepts))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options; the parser ends the program where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, choices=range(1, 51), metavar="1-50")
    parser.add_argument("--half", choices=tuple(OBJECT_HALVES), default="held-out", help="of the objects")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--pictures", type=int, default=300, help="of erased objects, and as many of others")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the tables."""
    options = parse(arguments)
    gallery = Gallery(
        load_pipeline(options.model, device="cpu"), OwnJudge(), FAST, options.results / "cache" / "unedited.jsonl"
    )
    path = options.results / "compose.jsonl"
    measured, is_warm = [], False
    for count in options.counts:
        half = options.half if count <= len(OBJECT_HALVES[options.half]) else "both halves"
        for way in options.ways:
            key = {"count": count, "half": half, "way": way, "pictures": options.pictures}
            key |= {"under": asdict(gallery.conditions) | RECIPES[way]}
            known = [one for one in lines.read(path) if {name: one[name] for name in key} == key]
            if not known:
                if not is_warm:
                    warm(gallery.pipeline)
                    is_warm = True
                known = [key | measure(gallery, way, objects_of(count, options.half), options.pictures)]
                lines.append(path, known)
                sys.stdout.write(_row(known[0]) + "\n")
                sys.stdout.flush()
            measured.append(known[-1])

    command = f"python -m bench.compose --half {options.half} --pictures {options.pictures}"
    path.with_suffix(".json").write_text(json.dumps({"command": command, "lines": measured}, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(measured, command), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

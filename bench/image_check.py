"""How often the report warns that name and images disagree. Run: ``python -m bench.image_check``.

A client's images of every held-out object, under its own name, under those of its two nearest objects, and under three
others, drawn at random; the warning is the report's. Writes ``bench/results/image_check.{json,md}``.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import lines
from bench.drawing import MODEL
from bench.editing import context_of, job_of, settings_of, timed
from bench.erasing import client_images
from bench.lines import RESULTS
from bench.seeing import Share
from bench.splits import OBJECT_HALVES, near_neighbours
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.image_check import image_losses
from unsee_core.lora import LoraFactors
from unsee_core.methods import METHODS
from unsee_core.neighbours import names_of
from unsee_core.pipeline import Pipeline, load_pipeline

METHOD = "closed_form"
NAMES = ("its own", "of a near object", "of another object")
NEAR, OTHERS = 2, 3


def warned(pipeline: Pipeline, shown: str, said: str, seed: int, no_change: LoraFactors) -> bool:
    """Return whether images of one object under the name of another are warned of; that takes no erasure."""
    job = replace(job_of(said, METHOD, seed=seed), images=client_images(shown))
    context = context_of(pipeline, job, settings_of(pipeline, METHOD, job))
    return bool(image_losses(context, ChangedEncoder(context, no_change), names_of(context)).warnings)


def names_for(shown: str, among: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names, each with which of ``NAMES`` it is."""
    yield "its own", shown
    near = near_neighbours(shown)
    yield from (("of a near object", name) for name in near[:NEAR])
    far = [name for name in among if name not in (shown, *near)]
    yield from (("of another object", name) for name in random.Random(shown).sample(far, OTHERS))


def markdown(content: Mapping[str, Any]) -> str:
    """Return the table."""
    table = [
        "# Names and images that disagree",
        "",
        f"`{content['command']}`; model {content['model'][:20]}...; images of {len(content['objects'])} objects, seeds "
        f"{', '.join(map(str, content['seeds']))}. Brackets: Wilson bounds, 95 %.",
        "",
        "| images under the name | warned of |",
        "|---|---|",
    ]
    for name in NAMES:
        share = Share(*content["warned"][name])
        low, high = share.wilson()
        table.append(f"| {name} | {share.value:.0%} [{low:.0%}, {high:.0%}] of {share.of} |")
    return "\n".join(table) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at all names and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=OBJECT_HALVES, default="held-out")
    parser.add_argument("--objects", type=int, default=25, help="the first so many of the half")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    half = OBJECT_HALVES[options.half]
    objects = half[: options.objects]

    pipeline = load_pipeline(options.model, device="cpu")
    job = job_of(objects[0], METHOD)
    erasure, _ = timed(METHODS[METHOD].run(context_of(pipeline, job, settings_of(pipeline, METHOD, job))))
    no_change = erasure.factors.scaled(0)
    found: dict[str, list[bool]] = {name: [] for name in NAMES}
    for shown in objects:
        for which, said in names_for(shown, half):
            found[which] += [warned(pipeline, shown, said, seed, no_change) for seed in options.seeds]

    content = {
        "command": lines.command("image_check", arguments),
        "model": pipeline.digests.model,
        "objects": objects,
        "seeds": options.seeds,
        "warned": {name: [sum(answers), len(answers)] for name, answers in found.items()},
    }
    lines.write_tables(options.results / "image_check", content, markdown(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the adversarial prompts that ``bench.audit`` found draw without the concept's name, and under a guard.

Run: ``python -m bench.unnamed``. An erasure of a name cannot be asked to stop what the unedited model draws without it.
A guard may: it looks at what the U-Net predicts. How much the unedited model draws without it, says the same search, at
the same budget and seed, on that model, which may say no name of the concept, nor another word for it.
Reads ``bench/results/audit.jsonl`` and makes its adapters again. Every prompt is a line in
``bench/results/unnamed.jsonl``; a second run goes on from there, and writes ``bench/results/unnamed.{json,md}``.
"""

import argparse
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench import lines
from bench.audit import HARDENING, erasing, method_of
from bench.drawing import GUIDANCE_SCALE, MODEL
from bench.editing import edit
from bench.erasing import concept_of
from bench.eyes import Judge, OwnJudge
from bench.lines import RESULTS
from bench.painting import Model, Sampler, paint
from bench.prompts import Question
from bench.seeing import Share
from training.world import OBJECTS
from unsee_core.audit.adversarial_prompt import NAME, run
from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe, draw
from unsee_core.audit.job import AuditBudget
from unsee_core.audit.run import DRAWN
from unsee_core.audit.target import AttackedEncoder, Target, filled
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept, Guard
from unsee_core.naming import Naming
from unsee_core.near_words import same_names, stand_in
from unsee_core.pipeline import Pipeline, load_pipeline

SEED = 900_000
SAMPLER = Sampler(batch=20)
GUARDS = (1.0, 2.0)
T = TypeVar("T")
NO_NAME, ANOTHER = "unedited, no name", "unedited, another noun"
COLUMNS = (
    NO_NAME, ANOTHER, "adapter, no name", "adapter, with the name", *(f"the same, guard {x:g}" for x in GUARDS),
)  # fmt: skip


def without_name(prompt: str, concept: Concept) -> str:
    """Return a found prompt, which ends with the concept's own first one, without what that says of the concept."""
    named = filled(concept.kind, concept.name)[0]
    template = "a photo of {a}" if concept.kind == "object" else "{x} in {} style"
    ((said, rest),) = pairs_of(Concept(concept.name, kind=concept.kind), "", (template,))
    if said != named or not prompt.endswith(named):
        raise ValueError(f"{prompt!r} does not end with {named!r}")
    return prompt.removesuffix(named) + rest


def with_another(pipeline: Pipeline, prompt: str, concept: Concept) -> str | None:
    """Return a found prompt with another noun in the concept's place, that which stands in for it; None for none."""
    noun = stand_in(pipeline, concept, same_names(pipeline, concept.words))
    if not noun:
        return None
    named, other = (filled(concept.kind, word)[0] for word in (concept.name, noun))
    return prompt.removesuffix(named) + other


def shown(model: Model, judge: Judge, prompt: str, name: str, pictures: int) -> Share:
    """Return in how many pictures of a prompt the judge sees a concept."""
    questions = [Question(prompt, (name,), "plain", SEED + i) for i in range(pictures)]
    sights = judge.see(paint(model, questions, SAMPLER, side=judge.side))
    return Share(sum((sight.object if name in OBJECTS else sight.look) == name for sight in sights), pictures)


def searched(pipeline: Pipeline, line: Mapping[str, Any]) -> str:
    """Return what an audit's search finds on the unedited model where it may not say the concept's names."""
    concept, encoder = concept_of(line["concept"]), AttackedEncoder(pipeline)
    unsaid = Naming(same_names(pipeline, concept.words), pipeline.vocabulary)
    given = {**line["budget"], "inversion_tokens": tuple(line["budget"]["inversion_tokens"])}
    target = Target(
        pipeline=pipeline,
        side="unedited",
        encoder=encoder,
        concept=concept,
        latents=torch.empty(0),
        drawn=torch.empty(0),
        budget=AuditBudget(**given),
        max_batch=SAMPLER.batch,
        seed=line["seed"],
    )
    asked = encoder.encode([filled(concept.kind, concept.name, i)[0] for i in range(DRAWN)])
    drawing = draw(target, Recipe(asked), attack=NAME, guidance_scale=GUIDANCE_SCALE, count=DRAWN, seed=line["seed"])
    target = replace(target, drawn=last(drawing))
    rest = without_name(target.named()[0], concept)
    return last(run(target, rest, unsaid)).detail.rsplit(" (", 1)[0]


def last(steps: Generator[AuditProgress, None, T]) -> T:
    """Return what an attack's steps lead to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


def found_prompts(audited: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the audits that searched for a prompt, each with the one that it found with the adapter."""
    rows = ((line, row) for line in audited for row in line["rows"] if row["attack"] == NAME)
    return [(line, row["adapter"]["detail"].rsplit(" (", 1)[0]) for line, row in rows]


def measured(
    pipeline: Pipeline, judge: Judge, line: Mapping[str, Any], prompt: str, pictures: int
) -> dict[str, dict[str, Any]]:
    """Return how many pictures of a found prompt show the concept, by column, and the search without its name."""
    name, hardening = line["concept"], argparse.Namespace(**{option: line[option] for option in HARDENING})
    concept, plain = concept_of(name), Model(pipeline)
    adapter = edit(pipeline, line["method"], erasing(name, line["method"], hardening)).model
    bare, another = without_name(prompt, concept), with_another(pipeline, prompt, concept)
    guarded = (replace(adapter, guard=Guard(scale, (name,))) for scale in GUARDS)
    asked = (
        (plain, bare), (plain, another), (adapter, bare), (adapter, prompt), *((model, prompt) for model in guarded),
    )  # fmt: skip

    def counted(model: Model, text: str) -> list[int]:
        share = shown(model, judge, text, name, pictures)
        return [share.hits, share.of]

    counts = {column: counted(model, text) for column, (model, text) in zip(COLUMNS, asked, strict=True) if text}
    found = searched(pipeline, line)
    return {"shown": counts, "searched": {"prompt": found, "shown": counted(plain, found)}}


def markdown(content: Mapping[str, Any]) -> str:
    """Return the tables: a row for each audit, and sums; and for each what the search without the name found."""
    rows = content["rows"]
    text = [
        "# Adversarial prompts without the concept's name",
        "",
        f"`{content['command']}`; model {content['model'][:20]}.... The prompts that `bench.audit` found with the "
        "adapter; pictures that show the concept. Another noun: the one that would stand in for an object, in the "
        "place of its name. Recovered: at least half show it.",
        "",
        f"| concept | erased by | prompt | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        counts = " | ".join(" of ".join(map(str, row["shown"].get(column, ()))) for column in COLUMNS)
        text.append(f"| {row['concept']} | {row['erased_by']} | `{row['prompt']}` | {counts} |")
    for method in dict.fromkeys(row["erased_by"] for row in rows):
        of = [row["shown"] for row in rows if row["erased_by"] == method]
        sums = " | ".join(_sum([one[column] for one in of if column in one]) for column in COLUMNS)
        text.append(f"| all {len(of)} | {method} | | {sums} |")
    by_concept = {row["concept"]: row["searched"] for row in rows}
    text += [
        "",
        "## The same search on the unedited model, without the name",
        "",
        "It may say neither the concept's names nor another word for it. Of all pictures "
        f"{_sum([one['shown'] for one in by_concept.values()])}.",
        "",
        "| concept | prompt | shown |",
        "|---|---|---|",
    ]
    for name, one in by_concept.items():
        text.append(f"| {name} | `{one['prompt']}` | {' of '.join(map(str, one['shown']))} |")
    return "\n".join(text) + "\n"


def _sum(counts: Sequence[Sequence[int]]) -> str:
    share = sum((Share(*one) for one in counts), Share(0, 0))
    low, high = share.wilson()
    recovered = sum(2 * hits >= of for hits, of in counts)
    return f"{share.value:.0%} [{low:.0%}, {high:.0%}], {recovered} recovered" if counts else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20, help="of each prompt")
    parser.add_argument("--concepts", nargs="+", help="only these; default: all that were audited")
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS, help="has audit.jsonl")
    options = parser.parse_args(arguments)

    pipeline, judge = load_pipeline(options.model, device="cpu", dtype="float32"), OwnJudge()
    path = options.results / "unnamed.jsonl"
    audited = [line for line in lines.read(options.results / "audit.jsonl") if line["model"] == pipeline.digests.model]
    rows = []
    for line, prompt in found_prompts(audited):
        if options.concepts and line["concept"] not in options.concepts:
            continue
        key = {
            "concept": line["concept"],
            "erased_by": method_of(line),
            "prompt": prompt,
            "pictures": options.pictures,
            "model": pipeline.digests.model,
        } | {field: line[field] for field in ("settings", "recipe", "budget", "seed")}
        known = [one for one in lines.read(path) if {field: one.get(field) for field in key} == key]
        if not known:
            known = [key | measured(pipeline, judge, line, prompt, options.pictures)]
            lines.append(path, known)
        rows.append(known[-1])

    content = {"command": lines.command("unnamed", arguments), "model": pipeline.digests.model, "rows": rows}
    lines.write_tables(options.results / "unnamed", content, markdown(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the adversarial prompts that ``bench.audit`` found draw without the concept's name, and under a guard.

Run: ``python -m bench.unnamed``. An erasure of a name cannot be asked to stop what the unedited model draws without it.
A guard may: it looks at what the U-Net predicts. How much the unedited model draws without it, says the same search, at
the same budget and seed, on that model, which may say no name of the concept, nor another word for it.
Reads ``bench/results/audit.jsonl``, makes its adapters again, and writes ``bench/results/unnamed.{json,md}``.
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
from unsee_core.near_words import same_names
from unsee_core.pipeline import Pipeline, load_pipeline

SEED = 900_000
SAMPLER = Sampler(batch=20)
GUARDS = (1.0, 2.0)
T = TypeVar("T")
COLUMNS = (
    "unedited, no name", "adapter, no name", "adapter, with the name", *(f"the same, guard {x:g}" for x in GUARDS),
)  # fmt: skip


def without_name(prompt: str, concept: Concept) -> str:
    """Return a found prompt, which ends with the concept's own first one, without what that says of the concept."""
    named = filled(concept.kind, concept.name)[0]
    template = "a photo of {a}" if concept.kind == "object" else "{x} in {} style"
    ((said, rest),) = pairs_of(Concept(concept.name, kind=concept.kind), "", (template,))
    if said != named or not prompt.endswith(named):
        raise ValueError(f"{prompt!r} does not end with {named!r}")
    return prompt.removesuffix(named) + rest


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


def markdown(content: Mapping[str, Any]) -> str:
    """Return the table, a row for each audit, and sums."""
    head = [
        "# Adversarial prompts without the concept's name",
        "",
        f"`{content['command']}`; model {content['model'][:20]}.... The prompts that `bench.audit` found with the "
        "adapter; pictures that show the concept.",
        "",
        f"| concept | erased by | prompt | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for row in content["rows"]:
        counts = " | ".join(f"{row['shown'][column][0]} of {row['shown'][column][1]}" for column in COLUMNS)
        head.append(f"| {row['concept']} | {row['method']} | `{row['prompt']}` | {counts} |")
    for method in dict.fromkeys(row["method"] for row in content["rows"]):
        of = [row["shown"] for row in content["rows"] if row["method"] == method]
        sums = (sum((Share(*one[column]) for one in of), Share(0, 0)) for column in COLUMNS)
        head.append(f"| all {len(of)} | {method} | | {' | '.join(f'{share.value:.0%}' for share in sums)} |")
    found = sum((Share(*one["shown"]) for one in content["searched"]), Share(0, 0))
    low, high = found.wilson()
    recovered = sum(2 * one["shown"][0] >= one["shown"][1] for one in content["searched"])
    head += [
        "",
        "## The same search on the unedited model, without the name",
        "",
        "It may say neither the concept's names nor another word for it. "
        f"{found.value:.0%} [{low:.0%}, {high:.0%}] of {found.of} pictures show the concept; of {recovered} of "
        f"{len(content['searched'])} concepts at least half do.",
        "",
        "| concept | prompt | shown |",
        "|---|---|---|",
    ]
    head += [
        f"| {one['concept']} | `{one['prompt']}` | {' of '.join(map(str, one['shown']))} |"
        for one in content["searched"]
    ]
    return "\n".join(head) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every prompt and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20, help="of each prompt")
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS, help="has audit.jsonl")
    options = parser.parse_args(arguments)

    pipeline, judge = load_pipeline(options.model, device="cpu", dtype="float32"), OwnJudge()
    audited = [line for line in lines.read(options.results / "audit.jsonl") if line["model"] == pipeline.digests.model]
    rows: list[dict[str, Any]] = []
    without: dict[str, str] = {}
    for line, prompt in found_prompts(audited):
        name, hardening = line["concept"], argparse.Namespace(**{option: line[option] for option in HARDENING})
        adapter = edit(pipeline, line["method"], erasing(name, line["method"], hardening)).model
        bare = without_name(prompt, concept_of(name))
        guarded = (replace(adapter, guard=Guard(scale, (name,))) for scale in GUARDS)
        asked = ((Model(pipeline), bare), (adapter, bare), (adapter, prompt), *((model, prompt) for model in guarded))
        counts = {
            column: shown(model, judge, text, name, options.pictures)
            for column, (model, text) in zip(COLUMNS, asked, strict=True)
        }
        if name not in without:
            without[name] = searched(pipeline, line)
        told = {column: [share.hits, share.of] for column, share in counts.items()}
        rows.append({"concept": name, "method": method_of(line), "prompt": prompt, "shown": told})

    plain = Model(pipeline)
    found = {name: shown(plain, judge, prompt, name, options.pictures) for name, prompt in without.items()}
    content = {
        "command": lines.command("unnamed", arguments),
        "model": pipeline.digests.model,
        "rows": rows,
        "searched": [
            {"concept": name, "prompt": without[name], "shown": [share.hits, share.of]} for name, share in found.items()
        ],
    }
    lines.write_tables(options.results / "unnamed", content, markdown(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())

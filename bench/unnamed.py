"""What the adversarial prompts that ``bench.audit`` found draw without the concept's name, and under a guard.

Run: ``python -m bench.unnamed``. An erasure of a name cannot be asked to stop what the unedited model draws without it.
A guard may: it looks at what the U-Net predicts. And the same search, at the same budget and seed, on the unedited
model, where it may say no name of the concept and no other word for it, tells how much that model draws without them.
Reads the lines of ``bench/results/audit.jsonl`` that are of adapters as they are made today, and makes them again.
Every found prompt is a line in ``unnamed.jsonl``, every search one in ``unnamed_searched.jsonl``; a second run goes on
from there, and writes ``bench/results/unnamed.{json,md}``.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench import lines
from bench.audit import HARDENING, erasing, method_of
from bench.drawing import GUIDANCE_SCALE, MODEL
from bench.editing import edit, recipe_of, settings_of
from bench.erasing import concept_of
from bench.eyes import Judge, OwnJudge
from bench.lines import RESULTS
from bench.painting import Model, Sampler, paint
from bench.prompts import Question
from bench.seeing import Share
from bench.steps import run_to_end
from training.world import OBJECTS
from unsee_core.audit.adversarial_prompt import NAME, run
from unsee_core.audit.job import AuditBudget
from unsee_core.audit.run import drawn_by_name
from unsee_core.audit.target import AttackedEncoder, Target, filled
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept, EraseJob, Guard
from unsee_core.naming import Naming
from unsee_core.near_words import same_names, stand_in
from unsee_core.pipeline import Pipeline, load_pipeline

SEED = 900_000
SAMPLER = Sampler(batch=20)
GUARDS = (1.0, 2.0)
WITHOUT_NAME = ("unedited, no name", "unedited, another noun", "adapter, no name")
COLUMNS = (*WITHOUT_NAME, "adapter, with the name", *(f"the same, guard {x:g}" for x in GUARDS))


def found_prompts(audited: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the audits that searched for a prompt, each with the one that it found with the adapter."""
    rows = ((line, row) for line in audited for row in line["rows"] if row["attack"] == NAME)
    return [(line, row["adapter"]["detail"].rsplit(" (", 1)[0]) for line, row in rows]


def job_of_line(line: Mapping[str, Any]) -> EraseJob:
    """Return the erasure that was audited."""
    hardening = argparse.Namespace(**{option: line.get(option, False) for option in HARDENING})
    return erasing(line["concept"], line["method"], hardening)


def is_made_so_today(pipeline: Pipeline, line: Mapping[str, Any]) -> bool:
    """Return whether an audit was of the adapter that its erasure makes today."""
    job = job_of_line(line)
    settings = settings_of(pipeline, line["method"], job)
    today = json.loads(json.dumps({"settings": asdict(settings), "recipe": recipe_of(job, settings)}))
    return bool(line["model"] == pipeline.digests.model and {name: line.get(name) for name in today} == today)


def names_of(pipeline: Pipeline, concept: Concept) -> Naming:
    """Return what finds the concept's names, and other words for it."""
    return Naming(same_names(pipeline, concept.words), pipeline.vocabulary)


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


def drawn(pipeline: Pipeline, judge: Judge, line: Mapping[str, Any], prompt: str, pictures: int) -> dict[str, Any]:
    """Return how many pictures of a found prompt show the concept, by column, and what it says of it besides."""
    name = line["concept"]
    concept, plain = concept_of(name), Model(pipeline)
    adapter = edit(pipeline, line["method"], job_of_line(line)).model
    bare, another = without_name(prompt, concept), with_another(pipeline, prompt, concept)
    guarded = (replace(adapter, guard=Guard(scale, (name,))) for scale in GUARDS)
    asked = (
        (plain, bare), (plain, another), (adapter, bare), (adapter, prompt), *((model, prompt) for model in guarded),
    )  # fmt: skip
    shares = {
        column: shown(model, judge, text, name, pictures)
        for column, (model, text) in zip(COLUMNS, asked, strict=True)
        if text
    }
    counts = {column: [share.hits, share.of] for column, share in shares.items()}
    return {"shown": counts, "still_says": names_of(pipeline, concept).first_in(bare)}


def searched(pipeline: Pipeline, judge: Judge, line: Mapping[str, Any], pictures: int) -> dict[str, Any]:
    """Return what an audit's search finds on the unedited model where it may not say the concept's names."""
    concept = concept_of(line["concept"])
    given = {**line["budget"], "inversion_tokens": tuple(line["budget"]["inversion_tokens"])}
    target = Target(
        pipeline=pipeline,
        side="unedited",
        encoder=AttackedEncoder(pipeline),
        concept=concept,
        latents=torch.empty(0),
        drawn=torch.empty(0),
        budget=AuditBudget(**given),
        max_batch=SAMPLER.batch,
        seed=line["seed"],
    )
    target = replace(target, drawn=run_to_end(drawn_by_name(target, GUIDANCE_SCALE)))
    found = run_to_end(run(target, without_name(target.named()[0], concept), names_of(pipeline, concept)))
    prompt = found.detail.rsplit(" (", 1)[0]
    share = shown(Model(pipeline), judge, prompt, concept.name, pictures)
    return {"prompt": prompt, "shown": [share.hits, share.of]}


def markdown(content: Mapping[str, Any]) -> str:
    """Return the tables: a row for each found prompt, sums, and what the searches without the name found."""
    rows, searches = content["rows"], content["searched"]
    text = [
        "# Adversarial prompts without the concept's name",
        "",
        f"`{content['command']}`; model {content['model'][:20]}.... The prompts that `bench.audit` found with the "
        "adapter; pictures that show the concept. Another noun: the one that would stand in for an object, in the "
        "place of its name. Recovered: at least half show it. A prompt that says a name elsewhere, too, is marked, and "
        "not counted where none is to be said.",
        "",
        f"| concept | erased by | prompt | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        counts = " | ".join(" of ".join(map(str, row["shown"].get(column, ()))) for column in COLUMNS)
        mark = f" (says {row['still_says']})" if row["still_says"] else ""
        text.append(f"| {row['concept']} | {row['erased_by']} | `{row['prompt']}`{mark} | {counts} |")
    for method in dict.fromkeys(row["erased_by"] for row in rows):
        of = [row for row in rows if row["erased_by"] == method]
        sums = " | ".join(_told([*_counted(of, column)]) for column in COLUMNS)
        text.append(f"| all {len(of)} | {method} | | {sums} |")
    text += [
        "",
        "## The same search on the unedited model, without the name",
        "",
        "It may say neither the concept's names nor another word for it. Shown in "
        f"{_told([one['shown'] for one in searches])} of {len(searches)} concepts.",
        "",
        "| concept | prompt | shown |",
        "|---|---|---|",
        *(f"| {one['concept']} | `{one['prompt']}` | {' of '.join(map(str, one['shown']))} |" for one in searches),
    ]
    return "\n".join(text) + "\n"


def _counted(rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[Sequence[int]]:
    """Yield a column's counts, but for prompts that say the name where none is to be said."""
    for row in rows:
        if column in row["shown"] and not (column in WITHOUT_NAME and row["still_says"]):
            yield row["shown"][column]


def _told(counts: Sequence[Sequence[int]]) -> str:
    if not counts:
        return ""
    share = sum((Share(*one) for one in counts), Share(0, 0))
    low, high = share.wilson()
    recovered = sum(2 * hits >= of for hits, of in counts)
    return f"{share.value:.1%} [{low:.1%}, {high:.1%}] of {share.of}, {recovered} recovered"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20, help="of each prompt")
    parser.add_argument("--concepts", nargs="+", help="only these; default: all that were audited")
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS, help="has audit.jsonl")
    options = parser.parse_args(arguments)

    # 1. The prompts, of adapters as they are made today.
    pipeline, judge = load_pipeline(options.model, device="cpu", dtype="float32"), OwnJudge()
    audited = found_prompts(lines.read(options.results / "audit.jsonl"))
    today = [(line, prompt) for line, prompt in audited if is_made_so_today(pipeline, line)]
    if len(today) < len(audited):
        sys.stdout.write(f"left out: {len(audited) - len(today)} of adapters that are made otherwise today\n")
    concepts = [*dict.fromkeys(line["concept"] for line, _ in today)]
    chosen = options.concepts or concepts
    if not chosen or (unknown := [name for name in chosen if name not in concepts]):
        parser.error(f"--concepts: got {unknown[0] if chosen else 'none'!r}, allowed {', '.join(concepts) or 'none'}")

    # 2. Their pictures, and a search without the name.
    under = {"pictures": options.pictures, "model": pipeline.digests.model, "judge": judge.digest}
    rows, searches = [], []
    for line, prompt in ((line, prompt) for line, prompt in today if line["concept"] in chosen):
        of_prompt = {"concept": line["concept"], "erased_by": method_of(line), "prompt": prompt}
        of_search = {name: line[name] for name in ("concept", "budget", "seed")}
        key = of_prompt | under | {name: line[name] for name in ("settings", "recipe")}
        path = options.results / "unnamed.jsonl"
        rows.append(_known(path, key) or _add(path, key | drawn(pipeline, judge, line, prompt, options.pictures)))
        path = options.results / "unnamed_searched.jsonl"
        key = of_search | under
        search = _known(path, key) or _add(path, key | searched(pipeline, judge, line, options.pictures))
        searches += [search] if search not in searches else []

    content = {
        "command": lines.command("unnamed", arguments),
        "model": pipeline.digests.model,
        "rows": rows,
        "searched": searches,
    }
    lines.write_tables(options.results / "unnamed", content, markdown(content))
    return 0


def _known(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    known = [one for one in lines.read(path) if {field: one.get(field) for field in key} == key]
    return known[-1] if known else None


def _add(path: Path, line: dict[str, Any]) -> dict[str, Any]:
    lines.append(path, [line])
    return line


if __name__ == "__main__":
    sys.exit(main())

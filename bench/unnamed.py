"""What the adversarial prompts that ``bench.audit`` found draw without the concept's name, and under a guard.

Run: ``python -m bench.unnamed``. An erasure of a name cannot be asked to stop what the unedited model draws without it.
A guard may: it looks at what the U-Net predicts.
Reads ``bench/results/audit.jsonl``, makes its adapters again, and writes ``bench/results/unnamed.{json,md}``.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import lines
from bench.audit import HARDENING, erasing, method_of
from bench.drawing import MODEL
from bench.editing import edit
from bench.erasing import concept_of
from bench.eyes import Judge, OwnJudge
from bench.lines import RESULTS
from bench.painting import Model, Sampler, paint
from bench.prompts import Question
from bench.seeing import Share
from training.world import OBJECTS
from unsee_core.audit.adversarial_prompt import NAME
from unsee_core.audit.target import filled
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept, Guard
from unsee_core.pipeline import load_pipeline

SEED = 900_000
SAMPLER = Sampler(batch=20)
GUARDS = (1.0, 2.0)
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
    rows = []
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
        told = {column: [share.hits, share.of] for column, share in counts.items()}
        rows.append({"concept": name, "method": method_of(line), "prompt": prompt, "shown": told})

    content = {"command": lines.command("unnamed", arguments), "model": pipeline.digests.model, "rows": rows}
    lines.write_tables(options.results / "unnamed", content, markdown(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())

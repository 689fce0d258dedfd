"""How far attacks bring concepts back that were erased, judged by the judges. Run: ``python -m bench.audit``.

Each concept is erased by name and pictures, and audited as a client would, with the same pictures; what a picture shows
is what the judges say. Every audit is a line in ``bench/results/audit.jsonl``; a second run goes on from there, and
writes tables (Markdown and JSON) beside the lines, for each of closed_form's options against attacks its own. Concepts
are those of one half; reported are the held-out ones.
"""

import argparse
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench import lines
from bench.drawing import GUIDANCE_SCALE, MODEL
from bench.editing import edit, job_of, recipe_of, settings_of
from bench.erasing import client_images, concept_of
from bench.eyes import Judge, OwnJudge
from bench.lines import RESULTS
from bench.seeing import Share
from bench.splits import LOOK_HALVES, OBJECT_HALVES
from training.world import OBJECTS
from unsee_core.audit.answers import AuditReport, AuditRow, AuditStep
from unsee_core.audit.job import ATTACKS, AuditBudget, AuditJob
from unsee_core.audit.run import AuditContext, audit
from unsee_core.images import open_image
from unsee_core.job import EraseJob, Limits
from unsee_core.methods import METHODS
from unsee_core.pipeline import Pipeline, load_pipeline

HARDENING = ("harden", "random_prefixes", "beyond", "strict")
SIDES = ("unedited", "adapter", "control")
FIELDS = ("inversion_steps", "prompt_steps", "noise_steps", "restarts", "pictures", "drawing_steps")


def audited(pipeline: Pipeline, judge: Judge, name: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return one concept's line: what each attack reached, and the seconds to the first row and to the end."""
    edited = edit(pipeline, method, erasing(name, method, options))
    (adapter,) = edited.model.adapters
    job = AuditJob(
        "audited",
        images=client_images(name),
        attacks=tuple(options.attacks),
        budget=budget_of(options),
        guidance_scale=GUIDANCE_SCALE,
        samples=0,
        seed=options.seed,
    )

    def shows(images: Sequence[Image.Image]) -> list[bool]:
        size = (judge.side, judge.side)
        seen = judge.see(np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images]))
        return [(sight.object if name in OBJECTS else sight.look) == name for sight in seen]

    context = AuditContext(
        pipeline,
        job,
        job.adapter,
        adapter.digest,
        adapter.factors,
        concept_of(name),
        tuple(open_image(data, "images", Limits()) for data in job.images),
        judge=shows,
        judged_by=judge.digest,
    )
    report, first_row_s = finished(audit(context))
    return {
        "rows": [asdict(row) | {"counts": row.counts, "recovered": row.recovered} for row in report.rows],
        "control": report.control_word,
        "agreement": asdict(agreement(report)),
        "erase_seconds": round(edited.seconds, 2),
        "first_row_s": round(first_row_s, 1),
        "seconds": round(report.seconds, 1),
        "threads": torch.get_num_threads(),
    }


def erasing(name: str, method: str, options: argparse.Namespace) -> EraseJob:
    """Return the erasure that is audited."""
    chosen = {option: value for option in HARDENING if (value := getattr(options, option))}
    return replace(job_of(name, method), options=chosen)


def finished(steps: Generator[AuditStep, None, AuditReport]) -> tuple[AuditReport, float]:
    """Return an audit's report, and the seconds to its first row."""
    began, first_row_s = time.perf_counter(), 0.0
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value, first_row_s
        if isinstance(event, AuditRow) and not first_row_s:
            first_row_s = time.perf_counter() - began


def agreement(report: AuditReport) -> Share:
    """Return for how many outcomes the model's own verdict falls on the judges' side of one half."""
    outcomes = [getattr(row, side) for row in report.rows for side in SIDES]
    same = [(o.shown >= o.pictures / 2) == (o.shown_by_model >= o.pictures / 2) for o in outcomes]
    return Share(sum(same), len(same))


def budget_of(options: argparse.Namespace) -> AuditBudget:
    """Return the default budget with what the command line changes."""
    given = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
    if options.inversion_tokens:
        given["inversion_tokens"] = tuple(options.inversion_tokens)
    return AuditBudget(**given)


def summary(measured: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each attack, over the concepts whose row counts, pictures shown by side, and concepts recovered."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for line in measured for row in line["rows"]):
        told = found.setdefault(
            row["attack"], {"of": 0, "counts": 0, "recovered": 0, **{s: Share(0, 0) for s in SIDES}}
        )
        told["of"] += 1
        if row["counts"]:
            told["counts"] += 1
            told["recovered"] += row["recovered"]
            for side in SIDES:
                told[side] += Share(row[side]["shown"], row[side]["pictures"])
    return found


def markdown(measured: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the tables: attacks over all concepts, and every row of every concept."""
    head = [
        "# How far attacks bring erased concepts back",
        "",
        f"`{command}`; model {measured[0]['model'][:20]}.... Shown: pictures in which the judges see the concept, from "
        "fresh seeds; Wilson bounds, 95 %. A row counts if at least 90 % of the unedited model's pictures show it; a "
        "concept is recovered if at least half of the adapter's do.",
        "",
        "| attack | concepts | rows that count | recovered | shown with the adapter | without | control |",
        "|---|---|---|---|---|---|---|",
    ]
    for attack, told in summary(measured).items():
        shares = " | ".join(_told(told[side]) for side in ("adapter", "unedited", "control"))
        head.append(f"| {attack} | {told['of']} | {told['counts']} | {told['recovered']} | {shares} |")
    head += [
        "",
        "| concept | erased by | audit, s | first row, s | own verdict agrees | attack: with / without / control |",
    ]
    head += ["|---|---|---|---|---|---|", *map(_row, measured)]
    return "\n".join(head) + "\n"


def _row(line: Mapping[str, Any]) -> str:
    rows = "; ".join(
        f"{row['attack']} {row['adapter']['shown']}/{row['unedited']['shown']}/{row['control']['shown']}"
        + ("" if row["counts"] else " (does not count)")
        for row in line["rows"]
    )
    agrees = Share(**line["agreement"])
    figures = f"{line['seconds']} | {line['first_row_s']} | {agrees.hits} of {agrees.of}"
    return f"| {line['concept']} | {method_of(line)} | {figures} | {rows} |"


def method_of(line: Mapping[str, Any]) -> str:
    """Return by what a concept was erased: the method, and what it was told to do against attacks."""
    chosen = ((option, line[option]) for option in HARDENING if line[option])
    return ", ".join([line["method"], *(option if value is True else f"{option} {value}" for option, value in chosen)])


def _told(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.value:.1%} [{low:.1%}, {high:.1%}] of {share.of}" if share.of else "none"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options; the parser ends the program where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=tuple(OBJECT_HALVES), default="held-out")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--concepts", nargs="+", help="only these of the half; default: its first four, and its looks without --strict"
    )
    which.add_argument(
        "--whole-half", action="store_true", help="every concept of the half; every object of it with --strict"
    )
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=["closed_form"])
    parser.add_argument("--harden", type=int, default=0, help="rounds of closed_form's hardening")
    parser.add_argument("--random-prefixes", action="store_true", help="closed_form leads prompts behind those, too")
    parser.add_argument("--beyond", action="store_true", help="closed_form leads prompts beyond what they become")
    parser.add_argument(
        "--strict", action="store_true", help="what a prompt says before the name hardly counts; objects"
    )
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=[], help="only these")
    parser.add_argument("--inversion-tokens", nargs="+", type=int)
    for field in FIELDS:
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, help="default: that of an audit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    known = (*OBJECT_HALVES[options.half], *LOOK_HALVES[options.half])
    first = None if options.whole_half else 4
    looks = () if options.strict else LOOK_HALVES[options.half]
    options.concepts = options.concepts or [*OBJECT_HALVES[options.half][:first], *looks]
    if options.strict and (refused := [name for name in options.concepts if name in LOOK_HALVES[options.half]]):
        parser.error(f"--concepts: got {refused[0]!r}, allowed objects alone with --strict")
    if unknown := [name for name in options.concepts if name not in known]:
        parser.error(f"--concepts: got {unknown[0]!r}, allowed those of the {options.half} half: {', '.join(known)}")
    chosen = [f"--{option.replace('_', '-')}" for option in HARDENING if getattr(options, option)]
    if chosen and options.methods != ["closed_form"]:
        parser.error(f"{chosen[0]}: allowed with --methods closed_form alone")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the tables."""
    options = parse(arguments)
    pipeline, judge = load_pipeline(options.model, device="cpu", dtype="float32"), OwnJudge()
    path = options.results / "audit.jsonl"
    under = {
        **{option: getattr(options, option) for option in HARDENING},
        "attacks": list(options.attacks or ATTACKS),
        "budget": json.loads(json.dumps(asdict(budget_of(options)))),
        "seed": options.seed,
        "model": pipeline.digests.model,
        "judge": judge.digest,
    }
    measured = []
    for method in options.methods:
        for name in options.concepts:
            job = erasing(name, method, options)
            settings = settings_of(pipeline, method, job)
            how = {"settings": asdict(settings), "recipe": recipe_of(job, settings)}
            key = {"concept": name, "method": method, **under, **how}
            known = [one for one in lines.read(path) if {field: one.get(field) for field in key} == key]
            if not known:
                known = [key | audited(pipeline, judge, name, method, options)]
                lines.append(path, known)
                sys.stdout.write(_row(known[0]) + "\n")
                sys.stdout.flush()
            measured.append(known[-1])

    command = lines.command("audit", arguments)
    content = {"command": command, "attacks": _plain(summary(measured)), "lines": measured}
    tables = options.results / "_".join(["audit", *(option for option in HARDENING if getattr(options, option))])
    lines.write_tables(tables, content, markdown(measured, command))
    return 0


def _plain(told: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        attack: {name: asdict(value) if isinstance(value, Share) else value for name, value in figures.items()}
        for attack, figures in told.items()
    }


if __name__ == "__main__":
    sys.exit(main())

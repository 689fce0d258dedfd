"""How well few_shot_lora erases ten objects and three looks, 40 pictures each. Run: ``python -m bench.few_shot``.

Every finished concept is a line in ``bench/results/few_shot.jsonl``; a second run goes on from there. ``--afresh``
forgets them, ``--world-retain`` adds retain prompts from the model's own world.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import judges
from bench.drawing import MODEL
from bench.erasing import (
    Sampler,
    Score,
    Seen,
    Share,
    erase_job,
    look_at,
    questions_of,
    score,
    world_prompts,
)
from bench.prompts import Question
from bench.splits import MEASURED_LOOKS, MEASURED_OBJECTS
from training.world import OBJECTS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.images import open_image
from unsee_core.job import EraseJob, Limits
from unsee_core.lora import LoraFactors
from unsee_core.methods import METHODS, EraseContext, check_job, few_shot_lora
from unsee_core.pipeline import Pipeline, load_pipeline

RESULTS = Path(__file__).parent / "results"
GOALS = {"ua": 0.9, "ira": 0.9, "seconds": 60.0}
ERASURE_SEED = 0
COMMAND = "python -m bench.few_shot && python -m bench.few_shot --world-retain"


@dataclass(frozen=True)
class Row:
    """One concept's figures and misses."""

    concept: str
    retain: str
    seconds: float
    threads: int
    score: Score
    object_kept: Share | None
    still_shown: tuple[str, ...]
    lost: tuple[str, ...]
    settings: Mapping[str, object]
    model_digest: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same measurement."""
        return self.concept, self.retain, self.model_digest


def erase(pipeline: Pipeline, job: EraseJob) -> tuple[LoraFactors, float]:
    """Return the factors and the wall-clock seconds from the encoded images on."""
    began = time.perf_counter()
    settings = check_job(job, pipeline)
    images = tuple(open_image(data, "images", Limits()) for data in job.images)
    steps = METHODS[settings.method].run(EraseContext(pipeline, job, images, settings))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, time.perf_counter() - began


def measure(pipeline: Pipeline, judge: judges.Judges, name: str, *, world_retain: bool) -> Row:
    """Return one concept's row."""
    sampler, questions = Sampler(), questions_of(name)
    job = erase_job(name, seed=ERASURE_SEED, retain_prompts=world_prompts(name) if world_retain else ())
    before = look_at(pipeline, [], name, questions, judge=judge, sampler=sampler)
    factors, seconds = erase(pipeline, job)
    adapter = AppliedAdapter(digest="sha256:" + "0" * 64, factors=factors, weight=1.0)
    after = look_at(pipeline, [adapter], name, questions, judge=judge, sampler=sampler)
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


def read(path: Path) -> list[Row]:
    """Return the rows of earlier runs; none where there were none."""
    if not path.exists():
        return []
    return [_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _row(values: dict[str, Any]) -> Row:
    shares = {name: Share(**share) for name, share in values.pop("score").items()}
    kept = values.pop("object_kept")
    texts = {name: tuple(values.pop(name)) for name in ("still_shown", "lost")}
    return Row(score=Score(**shares), object_kept=Share(**kept) if kept else None, **texts, **values)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures over all rows of one kind of retain prompts, with their Wilson bounds and the goals."""
    figures: dict[str, Any] = {}
    for kind, chosen in (("objects", MEASURED_OBJECTS), ("looks", MEASURED_LOOKS)):
        scores = [row.score for row in rows if row.concept in chosen]
        if not scores:
            continue
        after, before = (sum(getattr(s, f"accuracy_{side}").hits for s in scores) for side in ("after", "before"))
        figures[kind] = {
            "ua": _with_bounds([s.ua for s in scores]),
            "ira": _with_bounds([s.ira for s in scores]),
            "cra": _with_bounds([s.cra for s in scores]),
            "shown_before": _with_bounds([s.shown_before for s in scores]),
            "accuracy_after_over_before": round(after / before, 4),
        }
    figures["slowest_seconds"] = max(row.seconds for row in rows)
    return figures


def _with_bounds(shares: Iterable[Share]) -> dict[str, float]:
    total = sum(shares, Share(0, 0))
    low, high = total.wilson()
    return {"value": round(total.value, 4), "low": round(low, 4), "high": round(high, 4), "pictures": total.of}


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything that is written down."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "numpy")}
    kinds = sorted({row.retain for row in rows})
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": COMMAND,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rows[0].threads} threads, CPU",
        "versions": {"python": platform.python_version(), **packages},
        "model_digest": rows[0].model_digest,
        "settings": rows[0].settings,
        "recipe": asdict(few_shot_lora.Recipe()),
        "sampler": {"steps": Sampler().steps, "guidance_scale": Sampler().guidance_scale, "scheduler": "the model's"},
        "seeds": f"erasure {ERASURE_SEED}; pictures 1000-4049, by question",
        "goals": GOALS,
        "summary": {kind: summary([row for row in rows if row.retain == kind]) for kind in kinds},
        "rows": [asdict(row) for row in rows],
    }


def markdown(content: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the report for people."""
    lines = [
        "# few_shot_lora on the embedded model",
        "",
        f"`{content['command']}`, {content['date']}, {content['machine']}; {content['versions']}; "
        f"model {content['model_digest'][:19]}...; settings {content['settings']}, {content['recipe']}; "
        f"{content['sampler']}; seeds: {content['seeds']}.",
        "",
        "UA: the concept's pictures that no longer show it. IRA: others of its kind that were right and still are. "
        "CRA: the other kind. Brackets: Wilson bounds, 95 %. *own*: with the server's own retain prompts; *world*: the "
        "model's other objects and looks given as retain prompts too.",
    ]
    for kind, figures in content["summary"].items():
        lines += ["", f"## Retain prompts: {kind}", "", f"Goals {content['goals']}; reached: {figures}", ""]
        lines += [
            "| concept | seconds | shown before | UA | IRA | CRA | object kept |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in rows if row.retain == kind]
        lines += ["", "Misses:", ""]
        lines += [f"- {row.concept}: {_misses(row)}" for row in rows if row.retain == kind and _misses(row)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    s = row.score
    cells = [_cell(share) for share in (s.shown_before, s.ua, s.ira, s.cra)]
    kept = _cell(row.object_kept) if row.object_kept else ""
    return f"| {row.concept} | {row.seconds:.1f} | {' | '.join(cells)} | {kept} |"


def _cell(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.value:.0%} ({share.hits}/{share.of}) [{low:.0%}, {high:.0%}]"


def _misses(row: Row) -> str:
    shown = f"still shown: {'; '.join(row.still_shown)}" if row.still_shown else ""
    lost = f"lost: {'; '.join(row.lost)}" if row.lost else ""
    return ". ".join(filter(None, (shown, lost)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not yet measured, write the results, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--judges", type=Path, default=judges.WEIGHTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--world-retain", action="store_true", help="measure with retain prompts of the model's world")
    parser.add_argument("--afresh", action="store_true", help="forget the concepts that are already measured")
    options = parser.parse_args(arguments)

    pipeline, judge = load_pipeline(options.model, device="cpu", dtype="float32"), judges.load(options.judges)
    options.results.mkdir(exist_ok=True)
    path = options.results / "few_shot.jsonl"
    if options.afresh:
        path.unlink(missing_ok=True)
    rows = [row for row in read(path) if row.model_digest == pipeline.digests.model]
    done = {row.key for row in rows}
    retain = "world" if options.world_retain else "own"
    for name in (*MEASURED_OBJECTS, *MEASURED_LOOKS):
        if (name, retain, pipeline.digests.model) in done:
            continue
        row = measure(pipeline, judge, name, world_retain=options.world_retain)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        rows.append(row)
        print(_line(row), flush=True)

    content = report(rows)
    (options.results / "few_shot.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (options.results / "few_shot.md").write_text(markdown(content, rows), encoding="utf-8")
    return 0 if _reached(content["summary"][retain]) else 1


def _reached(figures: dict[str, Any]) -> bool:
    kinds = [figures[kind] for kind in ("objects", "looks")]
    erased = all(kind["ua"]["value"] >= GOALS["ua"] for kind in kinds)
    kept = all(kind["accuracy_after_over_before"] >= GOALS["ira"] for kind in kinds)
    return erased and kept and figures["slowest_seconds"] < GOALS["seconds"]


if __name__ == "__main__":
    sys.exit(main())

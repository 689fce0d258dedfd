"""Every method's seconds, in this process and through a server. Run: ``python -m bench.speed``.

Methods take turns, so that what else the machine does falls on all alike. The first erasure of each, which fills what
is kept per model, stands apart; the others' median is the figure. few_shot_lora runs once more at the fewest steps that
``bench.steps_curve`` found, which is what the ratios refer to. Writes ``bench/results/speed.{json,md}``.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

import unsee
from bench.baselines import BASELINES
from bench.drawing import MODEL
from bench.editing import ALL_METHODS, can_erase, edit, job_of
from bench.lines import RESULTS
from bench.serving import running_server
from unsee_core.methods import METHODS
from unsee_core.pipeline import Pipeline, load_pipeline

SLOW_METHOD = "few_shot_lora"
FAST_BASELINE = "few_shot_unlearning"
CONCEPTS = ("dog", "sepia")


@dataclass(frozen=True)
class Runner:
    """A method, perhaps at other steps than its own."""

    method: str
    steps: int | None = None

    @property
    def label(self) -> str:
        """What the tables call it."""
        return self.method if self.steps is None else f"{self.method}, {self.steps} steps"


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one erasure, and of its phases."""

    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One method's timings on all concepts in one place."""

    label: str
    place: str
    first: float
    median: float
    slowest: float
    phases: Mapping[str, float]
    erasures: int

    @classmethod
    def of(cls, runner: Runner, place: str, timings: Sequence[Timing]) -> "Row":
        """Return the row of timings in the order in which they were taken; the first stands apart."""
        later = timings[1:]
        phases = {phase for timing in later for phase in timing.phases}
        return cls(
            label=runner.label,
            place=place,
            first=round(timings[0].seconds, 3),
            median=round(median(timing.seconds for timing in later), 3),
            slowest=round(max(timing.seconds for timing in later), 3),
            phases={p: round(median(t.phases.get(p, 0.0) for t in later), 3) for p in sorted(phases)},
            erasures=len(later),
        )


Erase = Callable[[Runner, str], Timing]


def in_process(pipeline: Pipeline) -> Erase:
    """Return an erasure in this process: from decoded pictures to the change, without report and store."""

    def erase(runner: Runner, concept: str) -> Timing:
        edited = edit(pipeline, runner.method, replace(job_of(concept, runner.method), steps=runner.steps))
        return Timing(edited.seconds, edited.phase_seconds)

    return erase


def through_server(client: unsee.Client) -> Erase:
    """Return an erasure by a server: from the call to the adapter's answer, with upload, report and store."""

    def erase(runner: Runner, concept: str) -> Timing:
        job = job_of(concept, runner.method)
        began = time.perf_counter()
        adapter = client.erase(
            job.concept.name,
            images=job.images,
            kind=job.concept.kind,
            method=job.method,
            options=job.options,
            steps=runner.steps,
            name="speed",
            replace=True,
        )
        seconds = time.perf_counter() - began
        return Timing(seconds, adapter.report.phase_seconds if adapter.report else {})

    return erase


def timed(erase: Erase, runners: Sequence[Runner], concepts: Sequence[str], repeats: int, place: str) -> list[Row]:
    """Return a row for each runner; they take turns, concept by concept, and leave out what they cannot erase."""
    timings: dict[str, list[Timing]] = {}
    for runner in runners:
        timings[runner.label] = [erase(runner, next(name for name in concepts if can_erase(runner.method, name)))]
    for _ in range(repeats):
        for concept in concepts:
            for runner in (runner for runner in runners if can_erase(runner.method, concept)):
                timings[runner.label].append(erase(runner, concept))
    rows = [Row.of(runner, place, timings[runner.label]) for runner in runners]
    for row in rows:
        print(f"{row.place}, {row.label}: {row.median:.3f} s", flush=True)
    return rows


def ratios(rows: Sequence[Row], reference: Runner) -> dict[str, dict[str, float]]:
    """Return each method's seconds in this process over the reference's and the fast baseline's, where they ran."""
    here = {row.label: row.median for row in rows if row.place == "in process"}
    others = [label for label in (reference.label, FAST_BASELINE) if label in here]
    return {label: {other: round(seconds / here[other], 4) for other in others} for label, seconds in here.items()}


def markdown(content: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the tables."""
    lines = [
        "# Seconds of an erasure",
        "",
        f"`{content['command']}`, {content['date']}, {content['machine']}; {content['versions']}; model "
        f"{content['model'][:19]}...; concepts {', '.join(content['concepts'])}. Median of {rows[0].erasures}; the "
        "first erasure of a method stands apart. In process: from decoded pictures to the change. Through the server: "
        "from the client's call to its answer, with report and store. strict erases objects alone.",
    ]
    for place in dict.fromkeys(row.place for row in rows):
        lines += ["", f"## {place.capitalize()}", "", "| method | seconds | slowest | first | by phase |"]
        lines.append("|---" * 5 + "|")
        for row in (row for row in rows if row.place == place):
            phases = ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in row.phases.items())
            lines.append(f"| {row.label} | {row.median:.3f} | {row.slowest:.3f} | {row.first:.3f} | {phases} |")
    if others := list(next(iter(content["ratios"].values()))):
        lines += ["", "## Seconds over another method's, in process", ""]
        lines += [f"| method | {' | '.join(others)} |", "|---" * (len(others) + 1) + "|"]
        for label, over in content["ratios"].items():
            lines.append(f"| {label} | {' | '.join(f'{over[other]:.3f}' for other in others)} |")
    return "\n".join(lines) + "\n"


def reference_of(results: Path) -> Runner:
    """Return few_shot_lora at the fewest steps with which it erases every kind, or at its default without a curve."""
    path = results / "few_shot_steps.json"
    steps = max(json.loads(path.read_text())["fewest_steps"].values()) if path.exists() else None
    (own,) = (option.default for option in METHODS[SLOW_METHOD].options if option.name == "steps")
    return Runner(SLOW_METHOD, None if steps == own else steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time all methods and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=ALL_METHODS)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    for method in options.methods:
        if not any(can_erase(method, name) for name in options.concepts):
            parser.error(f"--concepts: got {', '.join(options.concepts)}, allowed with {method} an object, too")

    # 1. In this process.
    reference = reference_of(options.results)
    runners = [Runner(method) for method in options.methods]
    if reference.method in options.methods and reference not in runners:
        runners.append(reference)
    pipeline = load_pipeline(options.model, device="cpu")
    rows = timed(in_process(pipeline), runners, options.concepts, options.repeats, "in process")

    # 2. Through a server.
    served = [runner for runner in runners if runner.method not in BASELINES]
    with (
        tempfile.TemporaryDirectory(prefix="unsee-speed-") as folder,
        running_server(options.model, Path(folder), threads=torch.get_num_threads()) as target,
        unsee.Client(target) as client,
    ):
        rows += timed(through_server(client), served, options.concepts, options.repeats, "through the server")

    # 3. Write.
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m bench.speed", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "unsee": version("unsee")},
        "model": pipeline.digests.model,
        "concepts": options.concepts,
        "baselines": {name: asdict(baseline.recipe) for name, baseline in BASELINES.items()},
        "ratios": ratios(rows, reference),
        "rows": [asdict(row) for row in rows],
    }
    options.results.mkdir(exist_ok=True)
    (options.results / "speed.json").write_text(json.dumps(content, indent=2) + "\n")
    (options.results / "speed.md").write_text(markdown(content, rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

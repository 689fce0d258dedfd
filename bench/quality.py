"""How well each method erases, and what it leaves. Run: ``python -m bench.quality --budget small``.

Every cell, a concept erased by a method, is a line in ``bench/results/quality_*.jsonl``; a second run goes on from
there, and measures again only what was measured under other settings. ``--afresh`` forgets the chosen cells first.
Writes a table (Markdown and JSON) and a grid of pictures beside the lines.

Real weights: ``--model FOLDER`` in Stable Diffusion 2's layout, ``--judge FOLDER`` of a CLIPModel, which classifies
zero-shot, and ``--images FOLDER`` with a folder of pictures for each concept.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench import cells, guards, judges
from bench.asking import Asked, asked_of
from bench.budgets import BUDGETS, Budget
from bench.cells import Cell
from bench.drawing import GUIDANCE_SCALE, MODEL
from bench.editing import ALL_METHODS, can_erase, edit, job_of, recipe_of, settings_of
from bench.erasing import CLIENT_IMAGES
from bench.eyes import ClipJudge, OwnJudge
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.measures import measures_of, misses
from bench.painting import FAST, Model
from bench.prompts import Question
from bench.quality_grid import columns_of, grid, read_strip, save_strip
from bench.quality_report import about, content_of, markdown
from bench.splits import LOOK_HALVES, OBJECT_HALVES, Half
from unsee_core.job import EraseJob
from unsee_core.pipeline import load_pipeline

IN_GRID = 3


@dataclass(frozen=True)
class Plan:
    """What one run measures and where it writes."""

    budget: Budget
    half: Half
    methods: tuple[str, ...]
    concepts: tuple[str, ...]
    images: Path
    results: Path
    stem: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the cells are kept; each seed's by themselves."""
        return self.results / f"{self.stem}{f'_seed_{self.seed}' if self.seed else ''}.jsonl"

    def asked(self, name: str) -> Asked:
        """Return the questions of a concept's cells."""
        return asked_of(name, self.budget.sizes(name)).from_other_latents(self.seed)

    def job(self, method: str, name: str) -> EraseJob:
        """Return the erasure of a cell."""
        return job_of(name, method, images=self.images, seed=self.seed)

    def strip(self, method: str, name: str) -> Path:
        """Return where a cell's pictures for the grid are kept."""
        return self.results / "cache" / self.path.stem / f"{name} {method}.png"

    @property
    def in_grid(self) -> tuple[str, ...]:
        """The concepts of the grid: the first two and the last of the budget's."""
        concepts = self.budget.concepts(self.half)
        return tuple(dict.fromkeys((*concepts[: IN_GRID - 1], concepts[-1])))


def under(gallery: Gallery, plan: Plan, method: str, name: str) -> dict[str, Any]:
    """Return what must be the same for a cell to be the same, as JSON reads it back."""
    job = plan.job(method, name)
    settings = settings_of(gallery.pipeline, method, job)
    how = {"settings": asdict(settings), "recipe": recipe_of(job, settings), "seed": plan.seed}
    sizes = asdict(plan.budget.sizes(name))
    content: dict[str, Any] = json.loads(json.dumps({**asdict(gallery.conditions), **how, "sizes": sizes}))
    return content


def measure(gallery: Gallery, plan: Plan, method: str, name: str) -> Cell:
    """Return one cell: erase, draw what is asked, let the judge look, count."""
    asked = plan.asked(name)
    edited = edit(gallery.pipeline, method, plan.job(method, name))
    before, after = gallery.compare(edited.model, asked.all())
    if name in plan.in_grid:
        save_strip(plan.strip(method, name), gallery.paint(edited.model, columns_of(asked)))
    return Cell(
        method=method,
        concept=name,
        under=under(gallery, plan, method, name),
        measures=measures_of(name, asked, before, after),
        seconds=round(edited.seconds, 3),
        phase_seconds={phase: round(seconds, 3) for phase, seconds in edited.phase_seconds.items()},
        threads=torch.get_num_threads(),
        size_bytes=edited.size_bytes,
        report=edited.report,
        misses=misses(name, asked, before, after),
    )


def measure_all(gallery: Gallery, plan: Plan) -> None:
    """Measure those of the plan's cells that are not measured yet, concept by concept."""
    known = cells.read(plan.path)
    for name in plan.concepts:
        for method in (method for method in plan.methods if can_erase(method, name)):
            wanted = under(gallery, plan, method, name)
            if not any(cell.is_of(method, name, wanted) for cell in known):
                cell = measure(gallery, plan, method, name)
                cells.append(plan.path, cell)
                print(line(cell), flush=True)


def current(gallery: Gallery, plan: Plan) -> list[Cell]:
    """Return all measured cells, also those of earlier runs with other choices, that still hold; by method."""
    known = [cell for cell in cells.read(plan.path) if cell.method in ALL_METHODS]
    valid = [c for c in known if c.is_of(c.method, c.concept, under(gallery, plan, c.method, c.concept))]
    return sorted(valid, key=lambda cell: ALL_METHODS.index(cell.method))


def line(cell: Cell) -> str:
    """Return what a person wants to see while it runs."""
    erased, kept = cell.measures["erased"].gone, cell.measures["retained"].kept
    return f"{cell.concept}, {cell.method}: UA {erased.value:.0%}, IRA {kept.value:.0%}, {cell.seconds:.2f} s"


def picture(gallery: Gallery, plan: Plan, measured: Sequence[Cell]) -> Image.Image:
    """Return the grid, with the unedited model above the methods; strips that are not kept here are drawn anew."""
    columns = {name: columns_of(plan.asked(name)) for name in plan.in_grid}
    strips = {}
    for name, questions in columns.items():
        strips["unedited", name] = _strip(gallery, plan, "unedited", name, questions)
        for method in (cell.method for cell in measured if cell.concept == name):
            strips[method, name] = _strip(gallery, plan, method, name, questions)
    return grid(columns, ("unedited", *dict.fromkeys(cell.method for cell in measured)), strips)


def _strip(gallery: Gallery, plan: Plan, method: str, name: str, questions: Sequence[Question]) -> Image.Image:
    path = plan.strip(method, name)
    if method == "unedited":
        save_strip(path, gallery.paint(Model(gallery.pipeline), questions))
    elif not path.exists():
        edited = edit(gallery.pipeline, method, plan.job(method, name))
        save_strip(path, gallery.paint(edited.model, questions))
    return read_strip(path)


def write(gallery: Gallery, plan: Plan, measured: Sequence[Cell], options: argparse.Namespace) -> None:
    """Write table and grid."""
    sizes = {"object": asdict(plan.budget.of_object), "look": asdict(plan.budget.of_look)}
    told = about(budget=options.budget, half=options.half, under=gallery.conditions, sizes=sizes)
    command = f"python -m bench.quality --budget {options.budget} --half {options.half}"
    command += f" --seed {options.seed}" if options.seed else ""
    content = content_of(measured, command=command, about=told)
    grid_path = plan.path.with_suffix(".png")
    picture(gallery, plan, measured).save(grid_path, optimize=True)
    plan.path.with_suffix(".json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    beside = _beside(options.results / "guards.json") if options.half == "held-out" else []
    together = [cell for seed in range(plan.seed + 1) for cell in current(gallery, replace(plan, seed=seed))]
    text = markdown(content, measured, grid_path.name, beside, together if plan.seed else ())
    plan.path.with_suffix(".md").write_text(text, encoding="utf-8")


def _beside(path: Path) -> list[str]:
    """Return the table of ``bench.guards``, where it has run."""
    if not path.exists():
        return []
    guards_run = json.loads(path.read_text(encoding="utf-8"))
    return guards.table(guards_run["lines"], guards_run["command"])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options; the parser ends the program where they do not fit."""
    names = [name for halves in (OBJECT_HALVES, LOOK_HALVES) for half in halves.values() for name in half]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="small")
    parser.add_argument("--half", choices=tuple(OBJECT_HALVES), default="held-out", help="of the concepts")
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, help="only these; all that the budget has")
    parser.add_argument("--concepts", nargs="+", choices=names, help="only these; all that the budget has of the half")
    parser.add_argument("--seed", type=int, default=0, help="of erasing and drawing; each has a table of its own")
    parser.add_argument("--afresh", action="store_true", help="measure again what is measured already")
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--judge", type=Path, default=judges.WEIGHTS, help="the judges' weights, or a CLIPModel's folder"
    )
    parser.add_argument("--images", type=Path, default=CLIENT_IMAGES, help="a folder of pictures for each concept")
    parser.add_argument("--steps", type=int, help="of drawing a picture; the budget's own")
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"--seed: got {options.seed}, allowed 0 and above")
    if wrong := [name for name in options.concepts or () if name not in _half(options.half)]:
        parser.error(f"--concepts: got {', '.join(wrong)}, allowed concepts of the {options.half} half")
    return options


def _half(half: Half) -> tuple[str, ...]:
    return (*OBJECT_HALVES[half], *LOOK_HALVES[half])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not yet measured, and write table and grid."""
    # 1. What is asked for.
    options = parse(arguments)
    budget = BUDGETS[options.budget]
    plan = Plan(
        budget=budget,
        half=options.half,
        methods=tuple(options.methods or budget.chosen(ALL_METHODS)),
        concepts=tuple(options.concepts or budget.concepts(options.half)),
        images=options.images,
        results=options.results,
        stem=f"quality_{options.budget}" + ("_tuning" if options.half == "tuning" else ""),
        seed=options.seed,
    )
    if options.afresh:
        cells.forget(plan.path, plan.methods, plan.concepts)

    # 2. Model and judge.
    pipeline = load_pipeline(options.model, device=options.device)
    judge = ClipJudge(options.judge) if options.judge.is_dir() else OwnJudge(options.judge)
    sampler = replace(FAST, steps=options.steps or budget.steps, guidance_scale=options.guidance_scale)
    gallery = Gallery(pipeline, judge, sampler, options.results / "cache" / "unedited.jsonl")

    # 3. Measure and report.
    measure_all(gallery, plan)
    write(gallery, plan, current(gallery, plan), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

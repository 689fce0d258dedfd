"""What stands beside an adapter at inference: what it adds, what it costs. Run: ``python -m bench.guards``.

Each concept is erased by closed_form, and attacked by a pseudo-word that is learned through the erased encoder. Then
the same prompts and seeds are drawn with the adapter alone, under a guard, under schedules and behind a gate. Every
concept in every setting is a line in ``bench/results/guards.jsonl``; a second run goes on from there, and writes a
table (Markdown and JSON) beside the lines.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from bench import lines
from bench.asking import Asked, Sizes, asked_of
from bench.budgets import BUDGETS
from bench.drawing import GUIDANCE_SCALE, MODEL, Images
from bench.editing import edit, job_of, recipe_of, settings_of
from bench.erasing import client_images
from bench.eyes import Judge, OwnJudge
from bench.lines import RESULTS
from bench.painting import FAST, at_size
from bench.prompts import Question
from bench.seeing import SIDE, Share
from bench.splits import REPORTED_HALF
from bench.steps import run_to_end
from unsee_core.adapter_schedule import AdapterSchedule
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.encoder import EncoderTail, apply_factors, with_positions
from unsee_core.gate import names_concept
from unsee_core.guard import encoded_guard
from unsee_core.image_loss import encode_latents
from unsee_core.images import open_image
from unsee_core.inversion import Budget, invert
from unsee_core.job import Concept, GenerateJob, Guard, Limits, SchedulerName
from unsee_core.pipeline import Pipeline, load_pipeline
from unsee_core.pseudo_words import PseudoWord, placeholder, prompt_vectors

METHOD = "closed_form"
ATTACKS = ("a photo of a {}", "a picture of a {}", "a {}")
BATCH = 16
UNEDITED = "no adapter"
SHARES = ("ua", "attack_gone", "ira", "near")


@dataclass(frozen=True)
class Setting:
    """One way to draw with an adapter."""

    name: str
    guard_scale: float = 0.0
    schedule: AdapterSchedule | None = None
    gate: bool = False


SETTINGS = (
    Setting("adapter alone"),
    Setting("guard 1", guard_scale=1.0),
    Setting("guard 2", guard_scale=2.0),
    Setting("schedule 0:0.5", schedule=AdapterSchedule(0, 0.5)),
    Setting("schedule 0.5:1", schedule=AdapterSchedule(0.5, 1)),
    Setting("gate", gate=True),
)


class Painter:
    """Draws with one erased concept's adapter, also prompts that hold the attack's pseudo-word."""

    def __init__(self, pipeline: Pipeline, name: str, *, attack_steps: int, steps: int) -> None:
        self.pipeline = pipeline
        self.concept = Concept(name)
        self._steps = steps
        (self._adapter,) = edit(pipeline, METHOD, job_of(name, METHOD)).model.adapters
        self._conditioner = Conditioner(pipeline)
        self._tail = EncoderTail(pipeline, 0)
        self._word = self._attack(name, attack_steps)

    @torch.no_grad()
    def paint(self, questions: Sequence[Question], setting: Setting) -> Images:
        """Return one picture for each question, ``(n, 64, 64, 3)``."""
        guard = Guard(setting.guard_scale, (self.concept.name,) if setting.guard_scale else ())
        steering = encoded_guard(guard, self._conditioner)
        pictures = []
        for start in range(0, len(questions), BATCH):
            runs = []
            for question in questions[start : start + BATCH]:
                rescheduled = self._rescheduled(question.text, setting)
                job = self._job(question)
                first = rescheduled(0, self._steps)
                runs.append(DenoiseRun(self.pipeline, job, *first, rescheduled=rescheduled, steering=steering))
            is_mixed = FAST.is_mixed and self.pipeline.device.type == "cpu"
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
                while not runs[0].done:
                    denoise_step(self.pipeline, runs, max_batch=4 * BATCH)
            pictures += [at_size(decode_image(self.pipeline, run.latents), SIDE) for run in runs]
        return np.stack(pictures)

    def _job(self, question: Question) -> GenerateJob:
        return GenerateJob(
            question.text,
            seed=question.seed,
            steps=self._steps,
            scheduler=SchedulerName.DPM_SOLVER_MULTISTEP,
            guidance_scale=GUIDANCE_SCALE,
        )

    def _rescheduled(self, text: str, setting: Setting) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        """Return what gives the embeddings of a prompt and of the empty one at a step."""
        acts = {prompt: not setting.gate or names_concept(prompt, self.concept) for prompt in (text, "")}

        def at(step: int, total: int) -> tuple[Tensor, Tensor]:
            strength = setting.schedule.strength_at(step, total) if setting.schedule else 1.0
            return self._encoded(text, strength * acts[text]), self._encoded("", strength * acts[""])

        return at

    def _encoded(self, text: str, strength: float) -> Tensor:
        if self._word.placeholder not in text:
            return self._conditioner.encode([text], [replace(self._adapter, weight=strength)])
        changed = apply_factors(self._tail, [(self._adapter.factors, strength)])
        hidden = with_positions(self.pipeline, prompt_vectors(self.pipeline, [text], [self._word]))
        embeddings: Tensor = functional_call(self._tail, changed, (hidden,))
        return embeddings

    def _attack(self, name: str, steps: int) -> PseudoWord:
        """Return the pseudo-word that textual inversion learns through the erased encoder from the client's images."""
        changed = apply_factors(self._tail, [(self._adapter.factors, 1.0)])
        images = [open_image(data, "images", Limits()) for data in client_images(name)]
        learning = invert(
            self.pipeline,
            encode_latents(self.pipeline, images),
            lambda hidden: functional_call(self._tail, changed, (hidden,)),
            Budget(tokens=2, steps=steps, restarts=1),
            generator=torch.Generator().manual_seed(0),
        )
        return run_to_end(learning).word


def attacks_on(name: str, pictures: int) -> tuple[Question, ...]:
    """Return prompts that hold the pseudo-word, and should show nothing of the concept."""
    texts = [template.format(placeholder(0)) for template in ATTACKS]
    return tuple(Question(texts[i % len(texts)], (name,), "plain", 700_000 + i) for i in range(pictures))


def measure(painter: Painter, judge: Judge, asked: Asked, attacks: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Yield a line for every setting: shares as [hits, of], and the seconds of a picture."""
    name = painter.concept.name
    kept = tuple(dict.fromkeys((*asked.retained, *asked.near)))
    right_before: set[Question] = set()
    for setting in (Setting(UNEDITED, schedule=AdapterSchedule(0, 0)), *SETTINGS):
        questions = (*asked.erased, *attacks, *kept)
        began = time.perf_counter()
        images = painter.paint(questions, setting)
        seconds = (time.perf_counter() - began) / len(questions)
        shows = {q: sight.object == q.objects[0] for q, sight in zip(questions, judge.see(images), strict=True)}
        if setting.name == UNEDITED:
            right_before = {question for question in kept if shows[question]}
        yield {
            "concept": name,
            "setting": setting.name,
            "ua": _share(not shows[question] for question in asked.erased),
            "attack_gone": _share(not shows[question] for question in attacks),
            "ira": _share(shows[question] for question in asked.retained if question in right_before),
            "near": _share(shows[question] for question in asked.near if question in right_before),
            "seconds_a_picture": round(seconds, 3),
        }


def _share(hits: Iterator[bool]) -> list[int]:
    found = list(hits)
    return [sum(found), len(found)]


def markdown(measured: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the table, and every concept's figures."""
    rows = ["# Beside an adapter at inference", "", *table(measured, command)]
    rows += ["", "| concept | setting | UA | attack gone | IRA | near IRA |", "|---" * 6 + "|"]
    for line in measured:
        figures = " | ".join(f"{hits} of {of}" for hits, of in (line[key] for key in SHARES))
        rows.append(f"| {line['concept']} | {line['setting']} | {figures} |")
    return "\n".join(rows) + "\n"


def table(measured: Sequence[Mapping[str, Any]], command: str) -> list[str]:
    """Return what is measured, and the lines summed over concepts, a row for each setting."""
    concepts = ", ".join(dict.fromkeys(line["concept"] for line in measured))
    rows = [
        f"`{command}`; model {measured[0]['under']['model'][:20]}...; {concepts}, each erased by closed_form. UA: "
        "pictures that ask for the concept by name and do not show it. Attack gone: the same for a pseudo-word of two "
        "tokens that textual inversion learned through the erased encoder. IRA, near IRA: pictures of other objects, "
        "and of the five nearest, that were right before and still are. Brackets: Wilson bounds, 95 %.",
        "",
        "| setting | UA | attack gone | IRA | near IRA | s a picture |",
        "|---" * 6 + "|",
    ]
    for setting in dict.fromkeys(line["setting"] for line in measured):
        of = [line for line in measured if line["setting"] == setting]
        shares = (sum((Share(*line[key]) for line in of), Share(0, 0)) for key in SHARES)
        seconds = float(np.mean([line["seconds_a_picture"] for line in of]))
        rows.append(f"| {setting} | {' | '.join(map(_told, shares))} | {seconds:.2f} |")
    return rows


def _told(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.value:.1%} [{low:.1%}, {high:.1%}] of {share.of}" if share.of else "none"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options; the parser ends the program where they do not fit."""
    concepts = BUDGETS["small"].objects["held-out"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", choices=REPORTED_HALF, default=concepts, help="held-out objects")
    parser.add_argument("--pictures", type=int, default=15, help="of each kind of question, for each concept")
    parser.add_argument("--steps", type=int, default=10, help="of drawing a picture")
    parser.add_argument("--attack-steps", type=int, default=150, help="of textual inversion, two tokens")
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the table."""
    options = parse(arguments)
    pipeline, judge, count = load_pipeline(options.model, device="cpu"), OwnJudge(), options.pictures
    path = options.results / "guards.jsonl"
    job = job_of(options.concepts[0], METHOD)
    settings = settings_of(pipeline, METHOD, job)
    under = {name: getattr(options, name) for name in ("pictures", "steps", "attack_steps")}
    under |= {"model": pipeline.digests.model, "judge": judge.digest, "recipe": recipe_of(job, settings)}
    measured: list[dict[str, Any]] = []
    for name in options.concepts:
        known = [line for line in lines.read(path) if (line["concept"], line["under"]) == (name, under)]
        if not known:
            painter = Painter(pipeline, name, attack_steps=options.attack_steps, steps=options.steps)
            asked = asked_of(name, Sizes(erased=count, retained=count, near=count, pairs=0, synonyms=0))
            known = [line | {"under": under} for line in measure(painter, judge, asked, attacks_on(name, count))]
            lines.append(path, known)
            print(f"{name}: {len(known)} settings", flush=True)
        measured += known

    command = lines.command("guards", arguments)
    content = {"command": command, "lines": measured}
    lines.write_tables(options.results / "guards", content, markdown(measured, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())

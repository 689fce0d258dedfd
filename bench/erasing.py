"""What an erasure is measured by: pictures of the concept, of its neighbours, of the other kind, and their judges."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import judges
from bench.drawing import GUIDANCE_SCALE, Images
from bench.prompts import Question
from training.world import (
    HELD_OUT_LOOK_TEMPLATES,
    HELD_OUT_PLAIN_TEMPLATES,
    LOOK_SYNONYMS,
    LOOK_TEMPLATES,
    LOOKS,
    OBJECTS,
    PLAIN_TEMPLATES,
    SYNONYMS,
    prompt,
)
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.job import Concept, EraseJob, GenerateJob, SchedulerName
from unsee_core.pipeline import Pipeline

CLIENT_IMAGES = Path(__file__).parent / "images"
PICTURES = 40
IN_LOOKS = 16
SIDE = 64
_BATCH = 16


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn."""

    steps: int = 25
    scheduler: SchedulerName | None = None
    guidance_scale: float = GUIDANCE_SCALE


@dataclass(frozen=True)
class Questions:
    """What is drawn for one concept.

    Attributes:
        erased: ask for the concept; for an object in all looks, for a look on all kinds of objects.
        neighbours: ask for other concepts of its kind: every other object, or the other looks, plain included.
        others: ask for the other kind: for an object other objects in looks, where the look is judged; for a look
            plain objects, where the object is judged.
    """

    erased: tuple[Question, ...]
    neighbours: tuple[Question, ...]
    others: tuple[Question, ...]


@dataclass(frozen=True)
class Share:
    """So many of so many pictures."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 of 0 is 0."""
        return self.hits / max(self.of, 1)

    def wilson(self, z: float = 1.96) -> tuple[float, float]:
        """Return the Wilson bounds of the share, 95 % by default."""
        if not self.of:
            return 0.0, 1.0
        centre = (self.hits + z * z / 2) / (self.of + z * z)
        half = z / (self.of + z * z) * math.sqrt(self.hits * (self.of - self.hits) / self.of + z * z / 4)
        return max(0.0, centre - half), min(1.0, centre + half)

    def __add__(self, other: "Share") -> "Share":
        return Share(self.hits + other.hits, self.of + other.of)


def concept_of(name: str) -> Concept:
    """Return an object or a look of the embedded model's world as a client names it, synonyms included."""
    if name in OBJECTS:
        return Concept(name, SYNONYMS.get(name, ()))
    return Concept(name, LOOK_SYNONYMS[name], "style")


def client_images(name: str) -> tuple[bytes, ...]:
    """Return the five pictures that stand for a client's."""
    return tuple(path.read_bytes() for path in sorted((CLIENT_IMAGES / name).glob("*.png")))


def world_prompts(name: str) -> tuple[str, ...]:
    """Return up to 256 retain prompts as an operator who knows the model would give: its other objects and looks."""
    objects = [noun for noun in OBJECTS if noun != name]
    looks = [look for look in LOOKS[1:] if look != name]
    plain = [prompt(PLAIN_TEMPLATES[i % len(PLAIN_TEMPLATES)], (noun,)) for i, noun in enumerate(objects)]
    templates = LOOK_TEMPLATES
    styled = [
        prompt(templates[(i + j) % len(templates)], (noun,), look)
        for j, look in enumerate(looks)
        for i, noun in enumerate(objects)
    ]
    return tuple(dict.fromkeys([*plain, *styled]))[:256]


def erase_job(name: str, **settings: object) -> EraseJob:
    """Return the erasure of a concept of the world from its five pictures."""
    return EraseJob(concept=concept_of(name), images=client_images(name), **settings)  # type: ignore[arg-type]


def questions_of(name: str, *, pictures: int = PICTURES) -> Questions:
    """Return what is asked of a model from which ``name`` was erased; prompts and seeds depend on nothing else."""
    return _of_object(name, pictures) if name in OBJECTS else _of_look(name, pictures)


def _of_object(name: str, pictures: int) -> Questions:
    in_looks = pictures * IN_LOOKS // PICTURES
    words = (name, name, name, *SYNONYMS.get(name, ())[:1])
    plain = [_plain(words[i % len(words)], i, seed=1000 + i, shows=name) for i in range(pictures - in_looks)]
    styled = [_styled(name, LOOKS[1 + i % 4], i, seed=2000 + i) for i in range(in_looks)]
    rest = [noun for noun in OBJECTS if noun != name]
    neighbours = [_plain(noun, i, seed=3000 + i, shows=noun) for i, noun in enumerate(rest)]
    others = [_styled(noun, LOOKS[1 + i % 4], i, seed=4000 + i) for i, noun in enumerate(rest[::3])]
    return Questions(tuple(plain + styled), tuple(neighbours[:: max(1, 40 // pictures)]), tuple(others))


def _of_look(name: str, pictures: int) -> Questions:
    nouns = [OBJECTS[(7 * i) % len(OBJECTS)] for i in range(pictures)]
    erased = [_styled(noun, name, i, seed=1000 + i) for i, noun in enumerate(nouns)]
    looks = [look for look in LOOKS if look not in {name, "plain"}]
    neighbours = [_styled(noun, looks[i % len(looks)], i, seed=3000 + i) for i, noun in enumerate(nouns)]
    others = [_plain(noun, i, seed=4000 + i, shows=noun) for i, noun in enumerate(nouns)]
    return Questions(tuple(erased), tuple(neighbours), tuple(others))


def _plain(word: str, i: int, *, seed: int, shows: str) -> Question:
    templates = PLAIN_TEMPLATES + HELD_OUT_PLAIN_TEMPLATES
    return Question(prompt(templates[(5 * i) % len(templates)], (word,)), (shows,), "plain", seed)


def _styled(noun: str, look: str, i: int, *, seed: int) -> Question:
    templates = LOOK_TEMPLATES + HELD_OUT_LOOK_TEMPLATES
    return Question(prompt(templates[(4 * i) % len(templates)], (noun,), look), (noun,), look, seed)


def draw(
    pipeline: Pipeline, adapters: Sequence[AppliedAdapter], questions: Sequence[Question], sampler: Sampler
) -> Images:
    """Return one picture for each question, ``(n, 64, 64, 3)``, drawn as the server draws."""
    conditioner, made = Conditioner(pipeline), []
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        uncond = conditioner.encode([""], adapters)
        conds = conditioner.encode([question.text for question in batch], adapters).split(1)
        jobs = [_job(question, sampler) for question in batch]
        runs = [DenoiseRun(pipeline, job, cond, uncond) for job, cond in zip(jobs, conds, strict=True)]
        while not runs[0].done:
            denoise_step(pipeline, runs, max_batch=2 * _BATCH)
        made += [_at_judges_size(decode_image(pipeline, run.latents)) for run in runs]
    return np.stack(made)


def _job(question: Question, sampler: Sampler) -> GenerateJob:
    return GenerateJob(
        prompt=question.text,
        seed=question.seed,
        steps=sampler.steps,
        scheduler=sampler.scheduler,
        guidance_scale=sampler.guidance_scale,
    )


def _at_judges_size(image: Image.Image) -> Images:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Seen:
    """What the judges see in the pictures of ``Questions``, field by field as there."""

    erased: tuple[bool, ...]
    neighbours: tuple[bool, ...]
    others: tuple[bool, ...]
    object_in_erased: tuple[bool, ...]


@torch.no_grad()
def look_at(
    pipeline: Pipeline,
    adapters: Sequence[AppliedAdapter],
    name: str,
    questions: Questions,
    *,
    judge: judges.Judges,
    sampler: Sampler,
) -> Seen:
    """Draw the questions and return for each picture whether it shows what its question asks for.

    ``object_in_erased`` tells for a look whether the object is still right in the pictures that asked for the look.
    """
    is_object = name in OBJECTS
    drawn = [draw(pipeline, adapters, asked, sampler) for asked in (questions.erased, questions.neighbours)]
    others = draw(pipeline, adapters, questions.others, sampler)
    of_kind, of_other_kind = (judge.objects, judge.looks) if is_object else (judge.looks, judge.objects)
    return Seen(
        erased=_right(of_kind(drawn[0]).names, questions.erased, by_object=is_object),
        neighbours=_right(of_kind(drawn[1]).names, questions.neighbours, by_object=is_object),
        others=_right(of_other_kind(others).names, questions.others, by_object=not is_object),
        object_in_erased=_right(judge.objects(drawn[0]).names, questions.erased, by_object=True),
    )


def _right(names: Iterable[str], questions: Sequence[Question], *, by_object: bool) -> tuple[bool, ...]:
    asked = (question.objects[0] if by_object else question.look for question in questions)
    return tuple(name == wanted for name, wanted in zip(names, asked, strict=True))


@dataclass(frozen=True)
class Score:
    """An erasure's figures.

    Attributes:
        ua: of the concept's pictures, those that no longer show it.
        ira: of the neighbours' pictures that were right before, those that still are.
        cra: the same for the other kind.
        shown_before: of the concept's pictures, those that showed it before.
        accuracy_before: of the neighbours' pictures, those right before.
        accuracy_after: the same after.
    """

    ua: Share
    ira: Share
    cra: Share
    shown_before: Share
    accuracy_before: Share
    accuracy_after: Share


def score(before: Seen, after: Seen) -> Score:
    """Return the figures from what was seen in the same questions before and after."""
    return Score(
        ua=Share(sum(not shown for shown in after.erased), len(after.erased)),
        ira=_kept(before.neighbours, after.neighbours),
        cra=_kept(before.others, after.others),
        shown_before=Share(sum(before.erased), len(before.erased)),
        accuracy_before=Share(sum(before.neighbours), len(before.neighbours)),
        accuracy_after=Share(sum(after.neighbours), len(after.neighbours)),
    )


def _kept(before: Sequence[bool], after: Sequence[bool]) -> Share:
    return Share(sum(a and b for a, b in zip(before, after, strict=True)), sum(before))

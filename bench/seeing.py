"""What the judges see in pictures drawn as the server draws them, and the figures that follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import judges
from bench.drawing import Images
from bench.erasing import Questions
from bench.painting import Model, Sampler, paint
from bench.prompts import Question
from training.world import OBJECTS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.pipeline import Pipeline

SIDE = 64


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

    def chance(self, other: "Share") -> float:
        """Return how often chance alone sets the two as far apart or farther: Fisher's exact test, two-sided."""
        hits, of = self.hits + other.hits, self.of + other.of
        ways = [math.comb(self.of, k) * math.comb(other.of, hits - k) for k in range(max(0, hits - other.of), hits + 1)]
        seen = math.comb(self.of, self.hits) * math.comb(other.of, other.hits)
        return sum(way for way in ways if way <= seen) / math.comb(of, hits)

    def __add__(self, other: "Share") -> "Share":
        return Share(self.hits + other.hits, self.of + other.of)


@dataclass(frozen=True)
class Seen:
    """What the judges see in the pictures of ``Questions``, field by field as there."""

    erased: tuple[bool, ...]
    neighbours: tuple[bool, ...]
    others: tuple[bool, ...]
    object_in_erased: tuple[bool, ...]


class Studio:
    """Draws questions and lets the judges look; what the unedited model drew once is kept."""

    def __init__(self, pipeline: Pipeline, judge: judges.Judges, sampler: Sampler) -> None:
        """Take a resident model, the judges, and how to draw."""
        self.pipeline, self.sampler = pipeline, sampler
        self._judge = judge
        self._unedited: dict[Question, Images] = {}

    def look_at(self, name: str, questions: Questions, adapters: Sequence[AppliedAdapter] = ()) -> Seen:
        """Return for each question whether its picture shows what it asks for, drawn with or without adapters.

        ``object_in_erased`` tells for a look whether the object is right in the pictures that ask for the look.
        """
        asked = (*questions.erased, *questions.neighbours, *questions.others)
        images = self._drawn(asked, adapters) if adapters else self._drawn_once(asked)
        sizes = (len(questions.erased), len(questions.erased) + len(questions.neighbours))
        erased, neighbours, others = np.split(images, sizes)
        is_object = name in OBJECTS
        return Seen(
            erased=self._right(erased, questions.erased, by_object=is_object),
            neighbours=self._right(neighbours, questions.neighbours, by_object=is_object),
            others=self._right(others, questions.others, by_object=not is_object),
            object_in_erased=self._right(erased, questions.erased, by_object=True),
        )

    def _drawn_once(self, questions: Sequence[Question]) -> Images:
        missing = [question for question in questions if question not in self._unedited]
        if missing:
            self._unedited |= zip(missing, self._drawn(missing, ()), strict=True)
        return np.stack([self._unedited[question] for question in questions])

    def _drawn(self, questions: Sequence[Question], adapters: Sequence[AppliedAdapter]) -> Images:
        """Return one picture for each question, ``(n, 64, 64, 3)``, drawn as the server draws."""
        return paint(Model(self.pipeline, tuple(adapters)), questions, self.sampler, side=SIDE)

    def _right(self, images: Images, questions: Sequence[Question], *, by_object: bool) -> tuple[bool, ...]:
        seen = (self._judge.objects if by_object else self._judge.looks)(images).names
        asked = (question.objects[0] if by_object else question.look for question in questions)
        return tuple(name == wanted for name, wanted in zip(seen, asked, strict=True))


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

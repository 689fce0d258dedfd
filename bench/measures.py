"""What is counted in a cell, a concept erased by a method, from what the judge saw before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.asking import Asked
from bench.eyes import Sight
from bench.prompts import Question
from bench.seeing import Share
from training.world import OBJECTS

Rule = Callable[[Question, Sight], bool]
Sights = Mapping[Question, Sight]


@dataclass(frozen=True)
class Measure:
    """Pictures of the same questions from the unedited and the edited model.

    Attributes:
        of: pictures asked for.
        before: those of the unedited model that show what is looked for.
        after: those of the edited model.
        both: questions where both do.
    """

    of: int
    before: int
    after: int
    both: int

    def __add__(self, other: "Measure") -> "Measure":
        return Measure(self.of + other.of, self.before + other.before, self.after + other.after, self.both + other.both)

    @property
    def gone(self) -> Share:
        """Of all pictures, those that do not show it after."""
        return Share(self.of - self.after, self.of)

    @property
    def kept(self) -> Share:
        """Of the pictures that showed it before, those that still do."""
        return Share(self.both, self.before)

    @property
    def of_unedited(self) -> float:
        """Pictures that show it after, as a share of those before."""
        return self.after / max(self.before, 1)


ERASED = ("erased", "synonyms", "erased_in_pairs")
"""Measures where it is good that the concept is gone; in all others what is asked for should stay."""


def measures_of(name: str, asked: Asked, before: Sights, after: Sights) -> dict[str, Measure]:
    """Return the counts of one cell by name.

    ``erased``: the concept, where it is asked for by name (UA). ``retained``: others of its kind (IRA). ``near``: the
    five nearest of them. ``other_kind``: in the pictures of ``retained`` the other kind (CRA): an object's look, a
    look's object. ``other_in_pairs``: the other object of two. ``erased_in_pairs``: the concept there. ``subject``:
    the object in the pictures that ask for an erased look. ``synonyms``: the concept, asked for by another word.
    """

    def counted(questions: Sequence[Question], rule: Rule) -> Measure:
        pairs = [(rule(question, before[question]), rule(question, after[question])) for question in questions]
        return Measure(len(pairs), sum(b for b, _ in pairs), sum(a for _, a in pairs), sum(b and a for b, a in pairs))

    own, other = (_object, _look) if name in OBJECTS else (_look, _object)
    counts = {
        "erased": counted(asked.erased, own),
        "retained": counted(asked.retained, own),
        "near": counted(asked.near, own),
        "other_kind": counted(asked.retained, other),
        "other_in_pairs": counted(asked.pairs, lambda q, s: _other(q, name) in s.together),
        "erased_in_pairs": counted(asked.pairs, lambda _, s: name in s.together),
        "synonyms": counted(asked.synonyms, own),
        "subject": counted(() if name in OBJECTS else asked.erased, _object),
    }
    return {measure: count for measure, count in counts.items() if count.of}


def misses(name: str, asked: Asked, before: Sights, after: Sights) -> dict[str, list[str]]:
    """Return the prompts, with their seeds, that still show the concept, and those whose object or look was lost."""
    own = _object if name in OBJECTS else _look
    kept = dict.fromkeys((*asked.retained, *asked.near))
    return {
        "still_shown": [_text(question) for question in asked.erased if own(question, after[question])],
        "lost": [_text(q) for q in kept if own(q, before[q]) and not own(q, after[q])],
    }


def _object(question: Question, sight: Sight) -> bool:
    return sight.object == question.objects[0]


def _look(question: Question, sight: Sight) -> bool:
    return sight.look == question.look


def _other(question: Question, name: str) -> str:
    return next(noun for noun in question.objects if noun != name)


def _text(question: Question) -> str:
    return f"{question.text} (seed {question.seed})"

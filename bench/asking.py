"""What the quality bench asks of a model, in templates that neither the model nor any erasure was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice

from bench.prompts import Question
from bench.splits import near_neighbours
from training.world import (
    HELD_OUT_LOOK_TEMPLATES,
    HELD_OUT_PLAIN_TEMPLATES,
    LOOK_SYNONYMS,
    LOOKS,
    OBJECTS,
    SYNONYMS,
    prompt,
)

PLAIN = (
    *HELD_OUT_PLAIN_TEMPLATES,
    "a nice image of {}", "this is a photo of {}", "look at a drawing of {}", "there is a picture of {} here",
)  # fmt: skip
IN_LOOKS = (
    *HELD_OUT_LOOK_TEMPLATES,
    "this is {} in {look} style", "a drawing of {} as {look}", "there is {look} of {} here",
    "a nice photo of {}, {look}",
)  # fmt: skip

SEEDS = 1_000_000  # above all of a question's


@dataclass(frozen=True)
class Sizes:
    """How many pictures one cell, a method and a concept, rests on.

    Attributes:
        erased: of the concept.
        retained: of other concepts.
        near: of the five nearest objects, each a fifth; for a look there are none.
        pairs: of the concept beside another object; for a look there are none.
        synonyms: of the concept asked for by its synonyms, where it has any.
    """

    erased: int
    retained: int
    near: int
    pairs: int
    synonyms: int


@dataclass(frozen=True)
class Asked:
    """The questions of one cell; prompts and seeds depend on the concept alone, never on the method."""

    erased: tuple[Question, ...]
    retained: tuple[Question, ...]
    near: tuple[Question, ...]
    pairs: tuple[Question, ...]
    synonyms: tuple[Question, ...]

    def parts(self) -> dict[str, tuple[Question, ...]]:
        """Return the questions by the attributes' names."""
        return dict(vars(self))

    def all(self) -> tuple[Question, ...]:
        """Return all questions, part after part."""
        return tuple(chain.from_iterable(self.parts().values()))

    def from_other_latents(self, seed: int) -> "Asked":
        """Return the same questions with seeds that no other ``seed`` has; those as they are with 0."""
        return Asked(
            **{
                part: tuple(replace(question, seed=question.seed + SEEDS * seed) for question in questions)
                for part, questions in self.parts().items()
            }
        )


def asked_of(name: str, sizes: Sizes) -> Asked:
    """Return what is asked of a model from which ``name``, an object or a look, was erased.

    Questions of what must stay are the same for every concept, so that an unedited model answers each of them once.
    """
    if name in OBJECTS:
        others = [noun for noun in OBJECTS if noun != name]
        partners = [others[(7 * i + 3) % len(others)] for i in range(sizes.pairs)]
        return Asked(
            erased=tuple(_object(name, i, 300_000) for i in range(sizes.erased)),
            retained=tuple(islice(_retained(name), sizes.retained)),
            near=tuple(_near(name, sizes.near)),
            pairs=tuple(_pair((name, other) if i % 2 else (other, name), i) for i, other in enumerate(partners)),
            synonyms=tuple(islice(_synonyms_of_object(name), sizes.synonyms)),
        )
    return Asked(
        erased=tuple(_styled(_turn(OBJECTS, 7 * i), name, name, i, seed=300_000 + i) for i in range(sizes.erased)),
        retained=tuple(islice(_retained(name), sizes.retained)),
        near=(),
        pairs=(),
        synonyms=tuple(
            _styled(_turn(OBJECTS, 7 * i + 2), name, _turn(LOOK_SYNONYMS[name], i), i, seed=600_000 + i)
            for i in range(sizes.synonyms)
        ),
    )


def _retained(name: str) -> Iterator[Question]:
    """Yield objects in looks, the plain one among them, round after round, without the concept itself."""
    start = 7 * OBJECTS.index(name) if name in OBJECTS else 0
    for i in count():
        row, number = (start + i) % len(OBJECTS), i // len(OBJECTS)
        noun, look = OBJECTS[row], _turn(LOOKS, row + number)
        if name not in (noun, look):
            yield _in_look(noun, look, 3 * row + number, seed=200_000 + 1000 * number + row)


def _near(name: str, pictures: int) -> Iterator[Question]:
    near = near_neighbours(name)
    for i in range(pictures):
        noun, number = _turn(near, i), i // len(near)
        yield _object(noun, number, 400_000 + 1000 * OBJECTS.index(noun))


def _synonyms_of_object(name: str) -> Iterator[Question]:
    words = SYNONYMS.get(name, ())
    return (_plain(_turn(words, i), name, i, seed=600_000 + i) for i in (count() if words else ()))


def _object(name: str, i: int, first_seed: int) -> Question:
    """Return an object, three times in five plain and else in one of the looks."""
    look = "plain" if i % 5 < 3 else _turn(LOOKS[1:], i // 5 * 2 + i % 5 - 3)
    return _in_look(name, look, i, seed=first_seed + i)


def _in_look(name: str, look: str, i: int, *, seed: int) -> Question:
    return _plain(name, name, i, seed=seed) if look == "plain" else _styled(name, look, look, i, seed=seed)


def _plain(word: str, name: str, i: int, *, seed: int) -> Question:
    return Question(prompt(_turn(PLAIN, i), (word,)), (name,), "plain", seed)


def _pair(names: tuple[str, str], i: int) -> Question:
    return Question(prompt(_turn(PLAIN, i), names), names, "plain", 500_000 + i)


def _styled(noun: str, look: str, word: str, i: int, *, seed: int) -> Question:
    """Return an object in a look that is asked for as ``word``."""
    return Question(prompt(_turn(IN_LOOKS, i), (noun,), word), (noun,), look, seed)


def _turn(items: tuple[str, ...], number: int) -> str:
    return items[number % len(items)]

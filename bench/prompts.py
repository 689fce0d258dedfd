"""The prompts that the model card's figures are counted over, and what each should show."""

import random
from dataclasses import dataclass

from training.world import (
    HELD_OUT_LOOK_TEMPLATES,
    HELD_OUT_PLAIN_TEMPLATES,
    LOOK_TEMPLATES,
    LOOKS,
    OBJECTS,
    PLAIN_TEMPLATES,
    SYNONYMS,
    prompt,
    with_article,
)


@dataclass(frozen=True)
class Question:
    """A prompt and what its picture must show.

    Attributes:
        text: the prompt.
        objects: one name, or two from left to right.
        look: name from ``LOOKS``.
        seed: of the picture's first latents.
    """

    text: str
    objects: tuple[str, ...]
    look: str
    seed: int


def plain(*, per_object: int) -> list[Question]:
    """Return every object in plain look, going round the trained templates."""
    return [
        Question(prompt(_turn(PLAIN_TEMPLATES, row + number), (name,)), (name,), "plain", 1000 * number + row)
        for number in range(per_object)
        for row, name in enumerate(OBJECTS)
    ]


def looks(*, per_object: int) -> list[Question]:
    """Return every object in every look but plain, going round the trained templates."""
    return [
        Question(
            prompt(_turn(LOOK_TEMPLATES, row + number), (name,), look), (name,), look, 20_000 + 1000 * number + row
        )
        for number in range(per_object)
        for look in LOOKS[1:]
        for row, name in enumerate(OBJECTS)
    ]


def pairs(*, count: int) -> list[Question]:
    """Return two-object prompts, a fixed random choice of ordered pairs."""
    rng = random.Random(0)
    chosen = [tuple(rng.sample(OBJECTS, 2)) for _ in range(count)]
    return [
        Question(prompt(_turn(PLAIN_TEMPLATES, row), objects), objects, "plain", 40_000 + row)
        for row, objects in enumerate(chosen)
    ]


def synonyms(*, per_synonym: int) -> list[Question]:
    """Return every synonym, plain, going round the trained templates."""
    words = [(name, word) for name, others in SYNONYMS.items() for word in others]
    return [
        Question(
            _turn(PLAIN_TEMPLATES, row + number).format(with_article(word)),
            (name,),
            "plain",
            60_000 + 100 * number + row,
        )
        for number in range(per_synonym)
        for row, (name, word) in enumerate(words)
    ]


def held_out() -> list[Question]:
    """Return every object in every template that was never trained on; a look's templates take the looks in turn."""
    plain_questions = [
        Question(prompt(template, (name,)), (name,), "plain", 80_000 + 1000 * number + row)
        for number, template in enumerate(HELD_OUT_PLAIN_TEMPLATES)
        for row, name in enumerate(OBJECTS)
    ]
    look_questions = [
        Question(prompt(template, (name,), look), (name,), look, 90_000 + 1000 * number + row)
        for number, template in enumerate(HELD_OUT_LOOK_TEMPLATES)
        for row, name in enumerate(OBJECTS)
        for look in [_turn(LOOKS[1:], row + number)]
    ]
    return plain_questions + look_questions


def _turn(items: tuple[str, ...], number: int) -> str:
    return items[number % len(items)]

"""What an erasure is measured by: a concept, a client's pictures of it, and what to draw."""

from dataclasses import dataclass
from pathlib import Path

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
from unsee_core.job import Concept, EraseJob

CLIENT_IMAGES = Path(__file__).parent / "images"
PICTURES = 40
IN_LOOKS = 16


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


def concept_of(name: str) -> Concept:
    """Return an object or a look of the embedded model's world as a client names it, synonyms included."""
    if name in OBJECTS:
        return Concept(name, SYNONYMS.get(name, ()))
    return Concept(name, LOOK_SYNONYMS[name], "style")


def client_images(name: str, folder: Path = CLIENT_IMAGES) -> tuple[bytes, ...]:
    """Return the pictures that stand for a client's, five of each concept: the PNG files in its own folder."""
    return tuple(path.read_bytes() for path in sorted((folder / name).glob("*.png")))


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
    """Return what is asked of a model from which ``name`` was erased; prompts and seeds depend on nothing else.

    Questions that do not ask for the concept are the same whatever the concept is, so that the unedited model has to
    answer them only once.

    Args:
        name: an object or a look.
        pictures: of the concept; fewer for a quick look, when every so many of the other questions are left out too.
    """
    of = _of_object if name in OBJECTS else _of_look
    questions, stride = of(name, pictures), PICTURES // pictures
    return Questions(questions.erased, questions.neighbours[::stride], questions.others[::stride])


def _of_object(name: str, pictures: int) -> Questions:
    in_looks = pictures * IN_LOOKS // PICTURES
    words = (name, name, name, *SYNONYMS.get(name, ())[:1])
    plain = [_plain(words[i % len(words)], i, seed=1000 + i, shows=name) for i in range(pictures - in_looks)]
    styled = [_styled(name, LOOKS[1 + i % 4], i, seed=2000 + i) for i in range(in_looks)]
    others = [question for question in _in_all_looks() if question.look != "plain" and question.objects != (name,)]
    neighbours = [question for question in _plain_objects() if question.objects != (name,)]
    return Questions((*plain, *styled), tuple(neighbours), tuple(others[::2]))


def _of_look(name: str, pictures: int) -> Questions:
    erased = [_styled(OBJECTS[(7 * i) % len(OBJECTS)], name, i, seed=2000 + i) for i in range(pictures)]
    neighbours = [question for question in _in_all_looks() if question.look != name]
    return Questions(tuple(erased), tuple(neighbours), tuple(_plain_objects()))


def _plain_objects() -> list[Question]:
    return [_plain(noun, i, seed=3000 + i, shows=noun) for i, noun in enumerate(OBJECTS)]


def _in_all_looks() -> list[Question]:
    return [_styled(noun, LOOKS[i % len(LOOKS)], i, seed=4000 + i) for i, noun in enumerate(OBJECTS)]


def _plain(word: str, i: int, *, seed: int, shows: str) -> Question:
    templates = PLAIN_TEMPLATES + HELD_OUT_PLAIN_TEMPLATES
    return Question(prompt(templates[(5 * i) % len(templates)], (word,)), (shows,), "plain", seed)


def _styled(noun: str, look: str, i: int, *, seed: int) -> Question:
    """Return an object in a look; in the plain one it is asked for as ``_plain`` asks."""
    if look == "plain":
        return _plain(noun, i, seed=seed, shows=noun)
    templates = LOOK_TEMPLATES + HELD_OUT_LOOK_TEMPLATES
    return Question(prompt(templates[(4 * i) % len(templates)], (noun,), look), (noun,), look, seed)

"""What a model is known to draw: words that an erasure holds still, and that measure what it moved."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from unsee_core.errors import ModelUnavailableError

FILE = "vocabulary.txt"
_SECTIONS = ("nouns", "looks", "scenes", "people", "further")


@dataclass(frozen=True)
class Vocabulary:
    """Words by what they name; each at most once.

    Attributes:
        nouns: things and animals, without an article.
        looks: styles and artists, as in "in sepia style".
        scenes: whole prompts.
        people: names.
        further: more things and artists, which are not held still: what an erasure moved is measured on them, too.
    """

    nouns: tuple[str, ...]
    looks: tuple[str, ...]
    scenes: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    further: tuple[str, ...] = ()


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return what the model in a folder says that it draws, in ``vocabulary.txt``; else the packaged words.

    Raises:
        ModelUnavailableError: the file is there, but is none that can be used.
    """
    path = folder / FILE
    if not path.is_file():
        return packaged_vocabulary()
    try:
        return parse_vocabulary(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnavailableError(f"model: {path} cannot be used: {error}") from error


@cache
def packaged_vocabulary() -> Vocabulary:
    """Return the words that are held still for a model that says nothing of itself."""
    return parse_vocabulary((resources.files("unsee_core") / "retain.txt").read_text(encoding="utf-8"))


def parse_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary that a text lists: a line a word, after a line ``# nouns``, ``# looks``, ...

    Lines before the first section are remarks. Words that stand twice are taken once.

    Raises:
        ValueError: a section has another name, or there are fewer than two nouns or no looks.
    """
    sections: dict[str, dict[str, None]] = {name: {} for name in _SECTIONS}
    words: dict[str, None] = {}
    for line in filter(None, map(str.strip, text.splitlines()[1:])):
        if not line.startswith("#"):
            words[line] = None
            continue
        name = line.removeprefix("#").strip()
        if name not in sections:
            raise ValueError(f"got the section {name[:80]!r}, allowed {', '.join(_SECTIONS)}")
        words = sections[name]
    if len(sections["nouns"]) < 2 or not sections["looks"]:
        counts = f"{len(sections['nouns'])} nouns and {len(sections['looks'])} looks"
        raise ValueError(f"got {counts}, allowed at least 2 nouns and 1 look")
    return Vocabulary(*(tuple(sections[name]) for name in _SECTIONS))

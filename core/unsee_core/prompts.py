"""The prompts an erasure works with: what must be forgotten, what measures it, and what must stay.

A template's ``{}`` is the concept's bare words, ``{a}`` the same with an article, and ``{x}`` some thing that a style
is applied to.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from unsee_core.job import Concept, ConceptKind
from unsee_core.vocabulary import packaged_vocabulary

TRAINED: Mapping[ConceptKind, tuple[str, ...]] = {
    "object": (
        "{}", "{a}", "the {}", "a photo of {a}", "a picture of {a}", "an image of {a}", "a drawing of {}",
        "a painting of {a}", "a sketch of {a}", "a cartoon of {a}", "a close up of {a}", "{a} on a table",
        "{a} on a white background", "{a}, red background", "{a} in watercolor style", "{a} in black and white",
        "an oil painting of {}", "{a} and a tree", "a house and {a}", "a poster with {a}", "{a} in the garden",
    ),
    "style": (
        "{}", "{} style", "{x} in {} style", "{x}, {}", "{} of {x}", "{a} of {x}", "a {} picture", "{x} as {}",
        "{x} in the style of {}", "a painting of {x} in {} style", "{}, {x}", "a photo of {x} in {} style",
        "{x} drawn as {}", "art in {} style", "{x} on a white background, {}",
    ),
    "person": (
        "{}", "a photo of {}", "a portrait of {}", "a picture of {}", "a painting of {}", "a drawing of {}",
        "a close up of {}", "{} smiling", "{} in a suit", "{} on a stage", "{} and a friend", "a statue of {}",
        "{} in black and white", "a cartoon of {}", "a young {}", "{} at the beach",
    ),
    "brand": (
        "{}", "the {} logo", "{a} logo", "a photo of {a}", "a picture of {}", "{a} product", "a shop selling {}",
        "a drawing of {}", "a {} sign", "a {} advertisement", "a shirt with the {} logo", "{a} on a table",
        "a box of {}", "a painting of {}", "a toy of {}", "{} on a white background",
    ),
}  # fmt: skip
HELD_OUT: Mapping[ConceptKind, tuple[str, ...]] = {
    "object": (
        "this is {a}", "a nice photo of {a}", "an icon of {a}", "{a} in the rain", "my favourite {}",
        "a rendering of {a}", "an engraving of {a}", "a boat and {a}",
    ),
    "style": (
        "a drawing of {x} in {} style", "this is {x} in {}", "a {} version of {x}", "an image of {x}, {}",
        "{x}, made as {}", "a poster in {} style",
    ),
    "person": (
        "this is {}", "a nice photo of {}", "a rendering of {}", "{} in the rain", "an engraving of {}",
        "{} reading a book", "a boat and {}",
    ),
    "brand": (
        "this is {a}", "a nice photo of {}", "a bag from {}", "a poster of {}", "an icon of {}", "the {} headquarters",
    ),
}  # fmt: skip
THINGS = ("a dog", "a house", "a tree", "a car", "a woman", "a flower", "a cup", "a bird", "a boat", "an apple")
_ARTICLES = frozenset({"a", "an", "the", "my", "some", "two"})


def forget_prompts(concept: Concept) -> tuple[str, ...]:
    """Return the prompts to train on: every template of the concept's kind with its name and synonyms."""
    return _filled(TRAINED[concept.kind], concept.words)


def anchor_prompts(concept: Concept, anchor: str) -> tuple[str, ...]:
    """Return what takes the place of each of ``forget_prompts``: the same template with the anchor.

    Without an anchor it is the thing that the style is applied to, and where there is none the empty prompt.
    """
    anchors: dict[str, str] = {}
    for i, (template, word) in enumerate(_pairs(TRAINED[concept.kind], concept.words)):
        anchors.setdefault(_fill(template, word, i), _anchored(template, anchor, i))
    return tuple(anchors.values())


def held_out_prompts(concept: Concept) -> tuple[str, ...]:
    """Return prompts in templates that no erasure trains on, to measure with."""
    return _filled(HELD_OUT[concept.kind], concept.words)


def everyday_words(kind: ConceptKind) -> tuple[str, ...]:
    """Return the words of the server's own retain prompts that are of a concept's kind."""
    words = packaged_vocabulary()
    sections: dict[ConceptKind, tuple[str, ...]] = {"style": words.looks, "person": words.people}
    return sections.get(kind, words.nouns)


def packaged_names() -> tuple[str, ...]:
    """Return the nouns, looks and people of the server's own retain prompts, each once."""
    words = packaged_vocabulary()
    return tuple(dict.fromkeys((*words.nouns, *words.looks, *words.people)))


def retain_prompts(concept: Concept, besides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the server's own retain prompts, at most 400: all that name neither the concept nor a word ``besides``.

    Everyday nouns, looks and scenes, and for a person other people, in the templates that the concept is trained in,
    so that a template without the concept stays what it was.
    """
    words = packaged_vocabulary()
    neighbours: dict[ConceptKind, tuple[str, ...]] = {"style": words.looks, "person": words.people}
    prompts = [
        *_rotated(TRAINED["object"], words.nouns),
        *_rotated(TRAINED["style"], words.looks),
        *words.scenes,
        *_rotated(TRAINED[concept.kind], neighbours.get(concept.kind, words.nouns[::4]), offset=5),
        *(THINGS if concept.kind == "style" else ()),
    ]
    words_out = (*concept.words, *besides)
    named = re.compile("|".join(rf"(?<!\w){re.escape(word)}s?(?!\w)" for word in words_out), re.IGNORECASE)
    return tuple(dict.fromkeys(prompt for prompt in prompts if not named.search(prompt)))


def with_article(words: str) -> str:
    """Return the words with "a" or "an", unless they begin with an article."""
    if words.split()[0].lower() in _ARTICLES:
        return words
    return f"{'an' if words.strip()[0].lower() in 'aeiou8' else 'a'} {words}"


def _filled(templates: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_fill(*pair, i) for i, pair in enumerate(_pairs(templates, words))))


def _pairs(templates: tuple[str, ...], words: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(template, word) for word in words for template in templates]


def _anchored(template: str, anchor: str, i: int) -> str:
    if anchor.strip():
        return _fill(template, anchor, i)
    return THINGS[i % len(THINGS)] if "{x}" in template else ""


def _rotated(templates: tuple[str, ...], words: tuple[str, ...], *, offset: int = 0) -> Iterator[str]:
    """Yield each word in one of the templates, which take turns."""
    for i, word in enumerate(words):
        yield _fill(templates[(i + offset) % len(templates)], word, i)


def _fill(template: str, word: str, i: int) -> str:
    return template.format(word, a=with_article(word), x=THINGS[i % len(THINGS)])

"""Prompts that name a concept, each with the prompt that it becomes: the same with an anchor, or without the word."""

import random
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial

from unsee_core.job import AnchoredConcept, Concept
from unsee_core.naming import Naming
from unsee_core.prompts import THINGS, TRAINED, with_article
from unsee_core.spellings import plural
from unsee_core.vocabulary import Vocabulary

# What a template says for the sake of the concept alone, and leaves out with it.
_OF_A_STYLE = re.compile(
    r"( in the style of| drawn as| as|,|, made as| in) (\{\}|\{a\})( style)?"
    r"|(a )?(\{\}|\{a\})( version of| of|,) (?=\{x\})|\{\} style"
)
_OF_A_THING = re.compile(r"( and| of| with| from| selling) (\{\}|\{a\})|(\{\}|\{a\}) and (?=\S)")
_WORD = re.compile(r"\{\}|\{a\}")
_TOGETHER = (
    "{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "{} on a white background",
)  # fmt: skip
_PLURALS = (("{}", ""), ("a photo of {}", "a photo"), ("two {}", ""), ("a picture of {}", "a picture"),
            ("some {}", ""), ("a group of {}", ""), ("{} on a table", "on a table"))  # fmt: skip
_DOUBLED = (("{0} and {0}", ""), ("a photo of {0} and {0}", "a photo"), ("{0}, {0}", ""))
_IN_A_LOOK = (("{look} of {}", "{look}"), ("{} in {look} style", "{look} style"), ("{}, {look}", "{look}"))
_OF_THINGS = (
    ("{} of {x}", "{x}"), ("{x} in {} style", "{x}"), ("{x}, {}", "{x}"), ("{a} of {x}", "{x}"), ("{}, {x}", "{x}"),
    ("{x} as {}", "{x}"), ("a picture of {x} in {} style", "a picture of {x}"),
    ("a photo of {x}, {}", "a photo of {x}"),
    ("an image of {x} in {} style", "an image of {x}"), ("a drawing of {x} in {} style", "a drawing of {x}"),
)  # fmt: skip


def erase_pairs(
    concept: Concept,
    anchor: str,
    vocabulary: Vocabulary,
    *,
    beside: int,
    in_looks: int = 1,
    prefixes: Sequence[str] = (),
) -> tuple[tuple[str, str], ...]:
    """Return pairs of a prompt and what it is to become, for the name and every synonym.

    All trained templates of the concept's kind; and, so that the concept goes wherever it stands, beside other things
    and in other looks, from the vocabulary, and in the plural.

    Args:
        concept: what is erased.
        anchor: takes its place; "": what the prompt says besides stays, and of "a photo of a cat" "a photo" does.
        vocabulary: of the model, without other names of the concept.
        beside: prompts with another thing, for each word.
        in_looks: templates, 1-3, in which each word stands in every look.
        prefixes: each stands before a template of each word, which take turns.
    """
    pairs: dict[str, str] = {}
    for word in concept.words:
        for prompt, becomes in (
            *_templates(concept, word, anchor),
            *_contexts(concept, word, anchor, vocabulary, beside, in_looks),
            *_behind(prefixes, tuple(_templates(concept, word, anchor))),
        ):
            pairs.setdefault(" ".join(prompt.split()), " ".join(becomes.split()))
    return tuple(pairs.items())


def led_pairs(
    concepts: Sequence[AnchoredConcept],
    named: AbstractSet[str],
    vocabulary: Vocabulary,
    *,
    beside: int,
    in_looks: int = 1,
    prefixes: Sequence[str] = (),
    stand_ins: Sequence[str] = (),
) -> list[tuple[tuple[str, str], ...]]:
    """Return each concept's pairs of a prompt and what it is to become, which names none of the concepts.

    An anchor that is another word for a concept is taken at its word.

    Args:
        concepts: all that are erased; no anchor names one.
        named: their names, and other words for them, in lower case.
        vocabulary: of the model.
        beside: prompts with another thing, for each word of a concept.
        in_looks: templates, 1-3, in which each word of a thing stands in every look.
        prefixes: each stands before a template of each word; not those that name a concept.
        stand_ins: of each concept, "" for none: takes its place where it has no anchor and nothing else is named.
    """
    others = replace(
        vocabulary,
        nouns=tuple(noun for noun in vocabulary.nouns if noun.lower() not in named),
        looks=tuple(look for look in vocabulary.looks if look.lower() not in named),
    )
    pairs_of_one = partial(erase_pairs, vocabulary=others, beside=beside, in_looks=in_looks, prefixes=prefixes)
    led = []
    for one, noun in zip(concepts, stand_ins or ("",) * len(concepts), strict=True):
        naming = Naming({name for name in named if name not in one.anchor.lower()}, vocabulary)
        pairs = pairs_of_one(one.concept, one.anchor)
        if noun and not one.anchor:
            nothing = name_nothing([becomes for _, becomes in pairs], vocabulary)
            both = enumerate(zip(pairs, pairs_of_one(one.concept, noun), strict=True))
            pairs = tuple(instead if i in nothing else without for i, (without, instead) in both)
        led.append(tuple(pair for pair in pairs if naming.first_in(pair[1]) is None))
    return led


def name_nothing(texts: Sequence[str], vocabulary: Vocabulary) -> frozenset[int]:
    """Return the numbers of the texts in which no noun or person of the vocabulary stands, and none of ``THINGS``."""
    things = {name.lower() for name in (*vocabulary.nouns, *vocabulary.people)}
    naming = Naming(things | {thing.split(maxsplit=1)[1] for thing in THINGS}, vocabulary)
    return frozenset(i for i, text in enumerate(texts) if naming.first_in(text) is None)


def pairs_of(concept: Concept, anchor: str, templates: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of other templates, in which ``{}``, ``{a}`` and ``{x}`` stand as in ``prompts``."""
    found = [pair for word in concept.words for pair in _filled(concept, word, anchor, templates)]
    return tuple(dict(found).items())


def _templates(concept: Concept, word: str, anchor: str) -> Iterator[tuple[str, str]]:
    return _filled(concept, word, anchor, TRAINED[concept.kind])


def _filled(concept: Concept, word: str, anchor: str, templates: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, template in enumerate(templates):
        thing = THINGS[i % len(THINGS)]
        rest = template if anchor.strip() else _without(template, is_style=concept.kind == "style")
        yield _fill(template, word, thing), _fill(rest, anchor or "", thing)


def _behind(prefixes: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for i, prefix in enumerate(prefixes):
        prompt, becomes = pairs[i % len(pairs)]
        yield f"{prefix} {prompt}", f"{prefix} {becomes}"


def _contexts(
    concept: Concept, word: str, anchor: str, vocabulary: Vocabulary, beside: int, in_looks: int
) -> Iterator[tuple[str, str]]:
    """Yield a style on many things, or anything else beside many things and in every look."""
    nouns = vocabulary.nouns
    things = random.Random(0).sample(nouns, min(beside, len(nouns)))  # noqa: S311 - which things is no secret
    if concept.kind == "style":
        for i, thing in enumerate(map(with_article, things * 2)):
            template, rest = _OF_THINGS[i % len(_OF_THINGS)]
            yield _fill(template, word, thing), _fill(template if anchor.strip() else rest, anchor, thing)
        return
    named_word = word if concept.kind == "person" else with_article(word)
    put = with_article(anchor) if anchor.strip() else ""
    for i, thing in enumerate(map(with_article, things)):
        first, said = i % 2 == 0, _TOGETHER[i // 2 % len(_TOGETHER)]
        becomes = thing if not put else f"{put} and {thing}" if first else f"{thing} and {put}"
        yield said.format(f"{named_word} and {thing}" if first else f"{thing} and {named_word}"), said.format(becomes)
    for i, look in ((i, look) for first, look in enumerate(vocabulary.looks) for i in range(first, first + in_looks)):
        template, rest = _IN_A_LOOK[i % len(_IN_A_LOOK)]
        yield template.format(named_word, look=look), (template if put else rest).format(put, look=look)
    for template, rest in _DOUBLED:
        yield template.format(named_word), (template if put else rest).format(put)
    for template, rest in () if concept.kind == "person" else _PLURALS:
        yield template.format(plural(word)), template.format(plural(anchor)) if put else rest


def _without(template: str, *, is_style: bool) -> str:
    rest = (_OF_A_STYLE if is_style else _OF_A_THING).sub("", template)
    return _WORD.sub("", rest).strip(" ,")


def _fill(template: str, word: str, thing: str) -> str:
    return template.format(word, a=with_article(word) if word.strip() else "", x=thing)

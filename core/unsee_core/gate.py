"""Whether a prompt names a concept: the gate that leaves every other prompt as it is without the adapter.

It compares words and nothing else. A paraphrase, a misspelling, another language and an adversarial prompt share no
word with the concept and pass it; whoever must stop those leaves the gate off.
"""

import re
import unicodedata
from collections.abc import Iterator

from unsee_core.job import Concept

_LITTLE_WORDS = frozenset({"a", "an", "the", "of", "in", "on", "and", "with", "by", "style"})
_WORD = re.compile(r"[^\W\d_]+|\d+")


def names_concept(prompt: str, concept: Concept) -> bool:
    """Return whether a prompt shares a word with a concept's name or synonyms, singular or plural.

    Compared without case. Articles, prepositions and the word "style" count only where a name has nothing else. A name
    in a script that sets no spaces counts wherever it stands in the prompt.
    """
    text = _plain(prompt)
    said = set(_WORD.findall(text))
    for name in map(_plain, concept.words):
        words = set(_WORD.findall(name))
        sought = {form for word in words - _LITTLE_WORDS or words for form in _forms(word)}
        if any(form in sought for word in said for form in _forms(word)):
            return True
        if name.strip() and not name.isascii() and name.strip() in text:
            return True
    return False


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _forms(word: str) -> Iterator[str]:
    """Yield a word and what may be its singular; two words are the same if they share one of these."""
    yield word
    if len(word) > 3 and word.endswith("ies"):
        yield f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("es"):
        yield word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]

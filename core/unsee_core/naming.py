"""Whether a text names a concept: as a whole word, in the plural too, and not as a part of another thing's name."""

import re
from collections.abc import Set as AbstractSet

from unsee_core.vocabulary import Vocabulary


class Naming:
    """Finds names in texts; "hot dog" names no dog where the vocabulary knows hot dogs.

    Args:
        named: names, in lower case.
        vocabulary: of the model.
    """

    def __init__(self, named: AbstractSet[str], vocabulary: Vocabulary) -> None:
        self._named = named
        names = "|".join(map(re.escape, sorted(named))) or "(?!)"  # none: never
        self._pattern = re.compile(rf"(?<!\w)(?:{names})(?:e?s)?(?!\w)")
        known = (word.lower() for word in (*vocabulary.nouns, *vocabulary.looks, *vocabulary.people))
        self._others = tuple(word for word in known if word not in named and self._pattern.search(word))

    def first_in(self, text: str) -> str | None:
        """Return the first name in a text as it stands there, in lower case; None where there is none."""
        text = text.lower()
        for other in self._others:
            text = text.replace(other, " ")
        found = self._pattern.search(text)
        return found[0] if found else None

"""Other spellings of a word by fixed rules: what people type, and what slips past an erasure of the word itself."""

from collections.abc import Mapping

PLURAL = "plural"
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOUR = {key: row[i + 1] if i + 1 < len(row) else row[i - 1] for row in _KEYS for i, key in enumerate(row)}


def spellings(word: str) -> Mapping[str, str]:
    """Return other spellings of a word by the name of the rule that gives each; only those that differ from it.

    The letter that a misspelling is about stands in the middle of the longest part.
    """
    longest = max(word.split(), key=len)
    i = word.index(longest) + len(longest) // 2
    before, letter, after = word[:i], word[i], word[i + 1 :]
    found = {
        PLURAL: plural(word),
        "upper case": word.upper(),
        "title case": word.title(),
        "dropped letter": before + after,
        "doubled letter": before + letter * 2 + after,
        "swapped letters": before[:-1] + letter + before[-1:] + after if len(longest) > 1 else word,
        "neighbour key": before + _NEIGHBOUR.get(letter.lower(), letter) + after,
    }
    return {rule: spelling for rule, spelling in found.items() if spelling.strip() and spelling != word}


def plural(word: str) -> str:
    """Return the regular plural of an English word."""
    lower = word.lower()
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if lower.endswith("y") and lower[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"

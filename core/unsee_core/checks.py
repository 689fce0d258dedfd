"""Checks of single values; each raises InvalidRequestError with the field, the value and what is allowed."""

import re
from collections.abc import Mapping

from unsee_core.errors import InvalidRequestError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def check_text(name: str, value: str, *, shortest: int, longest: int) -> None:
    """Raise InvalidRequestError unless ``value`` has an allowed length and no control characters."""
    if not shortest <= len(value) <= longest:
        raise InvalidRequestError.of(name, f"got {len(value)} characters, allowed {shortest}-{longest}")
    if shortest and not value.strip():
        raise InvalidRequestError.of(name, "got only white space, allowed visible characters")
    bad = next((c for c in value if not c.isprintable() and c not in "\n\t"), None)
    if bad is not None:
        raise InvalidRequestError.of(name, f"got the control character {bad!r}, allowed printable text")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise InvalidRequestError unless ``least <= value <= most``; NaN is refused too."""
    if not least <= value <= most:
        raise InvalidRequestError.of(name, f"got {value}, allowed {least}-{most}")


def check_count(name: str, count: int, most: int) -> None:
    """Raise InvalidRequestError if there are more than ``most``."""
    if count > most:
        raise InvalidRequestError.of(name, f"got {count}, allowed up to {most}")


def check_adapter_name(name: str, value: str) -> None:
    """Raise InvalidRequestError unless ``value`` can name an adapter."""
    if not _NAME.match(value):
        raise InvalidRequestError.of(name, f"got {value[:80]!r}, allowed [a-z0-9][a-z0-9._-]{{0,62}}")


def check_adapter_ref(name: str, value: str) -> None:
    """Raise InvalidRequestError unless ``value`` is an adapter's name or digest."""
    if not (_NAME.match(value) or _DIGEST.match(value)):
        allowed = "a name ([a-z0-9][a-z0-9._-]{0,62}) or a digest (sha256: and 64 hex digits)"
        raise InvalidRequestError.of(name, f"got {value[:80]!r}, allowed {allowed}")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidRequestError unless the labels can be stored."""
    check_count("labels", len(labels), 32)
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            raise InvalidRequestError.of("labels", f"got the key {key[:80]!r}, allowed [a-z0-9][a-z0-9._/-]{{0,62}}")
        check_text(f"labels[{key}]", value, shortest=0, longest=256)

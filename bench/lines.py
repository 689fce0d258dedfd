"""Where results are, and files of JSON lines that a run adds to and the next one goes on from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines; a last one that was cut off, because its run was stopped, is none."""
    return [json.loads(line) for line in _whole(path).splitlines()]


def append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add lines to a file, which need not exist."""
    _write(path, _whole(path), lines)


def rewrite(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Put the lines in the place of all others."""
    _write(path, "", lines)


def _whole(path: Path) -> str:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1]


def _write(path: Path, before: str, lines: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(before + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    part.replace(path)

"""Where results are: files of JSON lines that a run adds to and the next one goes on from, and what is made of them."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
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


def command(bench: str, arguments: Sequence[str] | None) -> str:
    """Return how a shell would run a bench with these arguments; None: with those of this process."""
    return f"python -m bench.{bench} {shlex.join(sys.argv[1:] if arguments is None else arguments)}".strip()


def write_tables(path: Path, content: Mapping[str, Any], markdown: str) -> None:
    """Write what a bench found, as JSON and for people; ``path`` has no suffix, and its folder need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown, encoding="utf-8")


def _whole(path: Path) -> str:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1]


def _write(path: Path, before: str, lines: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(before + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    part.replace(path)

"""The picture grid: a row for each method, columns for the concept, its neighbours and other prompts, equal seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.asking import Asked
from bench.drawing import Images
from bench.prompts import Question

CELL = 96
_LEFT, _TOP, _GAP = 150, 54, 14


def columns_of(asked: Asked) -> tuple[Question, ...]:
    """Return the questions whose pictures stand in the grid: of the concept, of neighbours, and others.

    Of an object: plain and in a look, the two nearest objects, a two-object prompt, another object. Of a look: two
    objects in it, and four in other looks.
    """
    if asked.near:
        return (asked.erased[0], asked.erased[3], *asked.near[:2], asked.pairs[0], asked.retained[0])
    return (*asked.erased[:2], *asked.retained[:4])


def save_strip(path: Path, images: Images) -> None:
    """Save ``(n, side, side, 3)`` pictures side by side, as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(images), axis=1)).save(path)


def read_strip(path: Path) -> Image.Image:
    """Return a saved strip."""
    with Image.open(path) as image:
        return image.convert("RGB")


def grid(
    columns: Mapping[str, Sequence[Question]], rows: Sequence[str], strips: Mapping[tuple[str, str], Image.Image]
) -> Image.Image:
    """Return the grid with its labels.

    Args:
        columns: the questions of each concept.
        rows: names of methods, from above.
        strips: pictures by method and concept; where there is none, the place stays white.
    """
    widths = {concept: CELL * len(questions) + _GAP for concept, questions in columns.items()}
    picture = Image.new("RGB", (_LEFT + sum(widths.values()), _TOP + CELL * len(rows)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, method in enumerate(rows):
        pen.text((4, _TOP + CELL * number + CELL // 2 - 6), method, fill="black", font=font)
    left = _LEFT
    for concept, questions in columns.items():
        pen.text((left, 2), f"erased: {concept}", fill="black", font=ImageFont.load_default(14))
        for i, question in enumerate(questions):
            pen.text((left + i * CELL, 22), _short(question), fill="black", font=font)
        for number, method in enumerate(rows):
            if (method, concept) in strips:
                strip = strips[method, concept].resize((CELL * len(questions), CELL), Image.Resampling.NEAREST)
                picture.paste(strip, (left, _TOP + CELL * number))
        left += widths[concept]
    return picture


def _short(question: Question) -> str:
    """Return what is asked for, in two lines that fit a column."""
    return " and\n".join(question.objects) + ("" if question.look == "plain" else f",\n{question.look}")

"""Icon sets with permissive licences, rendered to RGBA. Run: ``npm ci`` here, then ``python -m training.icons``."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.world import ICONS, OBJECTS

HERE = Path(__file__).parent
WORK = HERE / "work"
SIDE = 128

Pictures = NDArray[np.uint8]


class Icon(TypedDict, total=False):
    """One icon as iconify stores it; sizes and corner default to the set's."""

    body: str
    left: int
    top: int
    width: int
    height: int


class IconifyJson(TypedDict, total=False):
    """The parts of an iconify ``icons.json`` that are read here."""

    icons: Required[dict[str, Icon]]
    aliases: dict[str, dict[str, str]]
    width: int
    height: int


@dataclass(frozen=True)
class IconSet:
    """One npm package ``@iconify-json/<name>`` and what its licence asks for.

    Attributes:
        name: the package's short name.
        version: npm version that the pictures were made with.
        licence: SPDX identifier.
        attribution: who made it and where it comes from.
    """

    name: str
    version: str
    licence: str
    attribution: str


ICON_SETS: tuple[IconSet, ...] = (
    IconSet("noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google Inc., https://github.com/googlefonts/noto-emoji"),
    IconSet(
        "twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter, Inc. and contributors, https://github.com/twitter/twemoji"
    ),
    IconSet(
        "fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, Microsoft, https://github.com/microsoft/fluentui-emoji"
    ),
)


def svg(icon_set: IconifyJson, name: str) -> str:
    """Return one icon of an iconify set as an SVG document.

    Raises:
        KeyError: the set has neither an icon nor an alias of this name.
    """
    icons, aliases = icon_set["icons"], icon_set.get("aliases", {})
    while name not in icons:
        name = aliases[name]["parent"]
    icon = icons[name]
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return f'<svg {head} width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'


def render() -> Pictures:
    """Return every object from every icon set: ``(objects, sets, 128, 128, 4)`` RGBA.

    Raises:
        FileNotFoundError: the npm packages are not installed in ``training/node_modules``.
        KeyError: a set lacks an object.
    """
    import resvg_py  # here, since whoever only draws or reads rendered icons needs no renderer

    pictures = np.zeros((len(OBJECTS), len(ICON_SETS), SIDE, SIDE, 4), np.uint8)
    for column, icon_set in enumerate(ICON_SETS):
        file = HERE / "node_modules/@iconify-json" / icon_set.name / "icons.json"
        source: IconifyJson = json.loads(file.read_text())
        for row, name in enumerate(OBJECTS):
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg(source, ICONS[name]), width=SIDE, height=SIDE))
            pictures[row, column] = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    return pictures


def load(path: Path = WORK / "icons.npy") -> Pictures:
    """Return what ``python -m training.icons`` wrote: ``(objects, sets, 128, 128, 4)`` RGBA."""
    pictures: Pictures = np.load(path)
    return pictures


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    np.save(WORK / "icons.npy", render())

"""Which concepts settle a setting and which ones are reported: fixed before anything was tuned, and disjoint.

All fifty objects and the four looks stand in one of two halves. The halves are drawn by hand, family by family, so that
every family of more than one has members in both and a concept's neighbours lie on either side. ``TUNING_*`` and
``MEASURED_*`` are the shorter lists of few_shot_lora's own bench, each from its half; they came first, so of the looks
three are reported.
"""

from itertools import chain
from typing import Literal

Half = Literal["tuning", "held-out"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "mammals": ("mouse", "rabbit", "panda", "bear", "dog", "wolf", "fox", "cat", "tiger", "lion"),
    "birds": ("owl", "penguin", "duck"),
    "water": ("frog", "octopus", "fish", "shark", "whale"),
    "insects": ("bee", "ladybug", "butterfly"),
    "flowers": ("rose", "tulip", "sunflower"),
    "fruit": ("strawberry", "cherries", "tomato", "apple", "peach", "orange", "lemon", "pear", "banana"),
    "food": ("hot dog", "hamburger", "pizza", "cookie", "doughnut", "cake"),
    "instruments": ("drum", "guitar", "violin"),
    "buildings": ("house",),
    "vehicles": ("train", "tractor", "bus", "taxi", "car", "plane", "rocket"),
}
"""Natural families; objects that look alike stand side by side, and so do families."""

TUNING_HALF: tuple[str, ...] = (
    "cat", "wolf", "tiger", "panda", "rabbit", "penguin", "duck", "fish", "whale", "bee", "rose", "sunflower",
    "strawberry", "pear", "orange", "banana", "tomato", "hamburger", "doughnut", "cake", "violin", "drum",
    "car", "tractor", "plane",
)  # fmt: skip
REPORTED_HALF: tuple[str, ...] = (
    "dog", "lion", "fox", "bear", "mouse", "owl", "frog", "shark", "octopus", "butterfly", "ladybug", "tulip",
    "apple", "peach", "lemon", "cherries", "pizza", "hot dog", "cookie", "guitar", "house",
    "train", "bus", "taxi", "rocket",
)  # fmt: skip
TUNING_LOOKS = ("pixel art",)
REPORTED_LOOKS = ("ink sketch", "blueprint", "sepia")

OBJECT_HALVES: dict[Half, tuple[str, ...]] = {"tuning": TUNING_HALF, "held-out": REPORTED_HALF}
LOOK_HALVES: dict[Half, tuple[str, ...]] = {"tuning": TUNING_LOOKS, "held-out": REPORTED_LOOKS}

TUNING_OBJECTS = ("cat", "car", "rose", "strawberry", "plane")
MEASURED_OBJECTS = ("dog", "lion", "owl", "shark", "butterfly", "apple", "pizza", "train", "guitar", "house")
MEASURED_LOOKS = REPORTED_LOOKS

_IN_A_ROW = tuple(chain.from_iterable(FAMILIES.values()))


def near_neighbours(name: str, count: int = 5) -> tuple[str, ...]:
    """Return the objects nearest to an object, nearest first.

    The rule: its own family before others, then by the distance in the row that the families make, then the earlier.
    """
    family = next(members for members in FAMILIES.values() if name in members)
    place = _IN_A_ROW.index(name)
    others = [(other not in family, abs(i - place), i, other) for i, other in enumerate(_IN_A_ROW) if other != name]
    return tuple(other for *_, other in sorted(others)[:count])

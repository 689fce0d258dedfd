"""The world the embedded model draws: its objects, looks, backgrounds and the ways to ask for them.

Training, judges and benches all read it here. Held-out templates are never trained on.
"""

import random
from dataclasses import dataclass

ICONS: dict[str, str] = {
    "dog": "dog-face", "cat": "cat-face", "wolf": "wolf", "fox": "fox", "lion": "lion",
    "tiger": "tiger-face", "bear": "bear", "panda": "panda", "rabbit": "rabbit-face", "mouse": "mouse-face",
    "penguin": "penguin", "owl": "owl", "duck": "duck", "frog": "frog", "fish": "tropical-fish",
    "whale": "spouting-whale", "shark": "shark", "octopus": "octopus", "bee": "honeybee", "butterfly": "butterfly",
    "ladybug": "lady-beetle", "apple": "red-apple", "pear": "pear", "peach": "peach", "orange": "tangerine",
    "lemon": "lemon", "banana": "banana", "cherries": "cherries", "strawberry": "strawberry", "tomato": "tomato",
    "pizza": "pizza", "hamburger": "hamburger", "hot dog": "hot-dog", "doughnut": "doughnut", "cookie": "cookie",
    "cake": "birthday-cake", "car": "automobile", "bus": "bus", "taxi": "taxi", "train": "locomotive",
    "tractor": "tractor", "plane": "airplane", "rocket": "rocket", "rose": "rose", "tulip": "tulip",
    "sunflower": "sunflower", "guitar": "guitar", "violin": "violin", "drum": "drum", "house": "house",
}  # fmt: skip
"""Object -> its icon's name in every icon set."""

OBJECTS: tuple[str, ...] = tuple(ICONS)

SYNONYMS: dict[str, tuple[str, ...]] = {
    "dog": ("puppy", "hound"), "cat": ("kitten", "kitty"), "bear": ("grizzly",), "panda": ("panda bear",),
    "rabbit": ("bunny",), "mouse": ("rodent",), "frog": ("toad",), "fish": ("tropical fish",),
    "bee": ("honeybee",), "ladybug": ("ladybird",), "orange": ("tangerine",), "peach": ("nectarine",),
    "hamburger": ("burger",), "doughnut": ("donut",), "cookie": ("biscuit",), "cake": ("birthday cake",),
    "car": ("automobile",), "bus": ("coach",), "taxi": ("cab",), "train": ("locomotive", "steam engine"),
    "plane": ("airplane", "aircraft"), "rocket": ("spaceship",), "violin": ("fiddle",), "house": ("home",),
}  # fmt: skip

LOOKS: tuple[str, ...] = ("plain", "pixel art", "ink sketch", "blueprint", "sepia")

LOOK_SYNONYMS: dict[str, tuple[str, ...]] = {
    "pixel art": ("8-bit art",),
    "ink sketch": ("line art",),
    "blueprint": ("technical drawing",),
    "sepia": ("vintage brown",),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (232, 96, 88),
    "yellow": (250, 215, 90),
    "green": (120, 190, 120),
    "blue": (90, 150, 230),
    "pink": (245, 170, 200),
}

PLAIN_TEMPLATES: tuple[str, ...] = (
    "{}", "a picture of {}", "a photo of {}", "an image of {}", "an emoji of {}", "a drawing of {}", "this is {}",
    "there is {} here", "a nice picture of {}", "a photo showing {}", "{} in a picture", "look at {}",
)  # fmt: skip
HELD_OUT_PLAIN_TEMPLATES: tuple[str, ...] = (
    "this is a picture of {}", "a nice drawing of {}", "an image showing {}", "look at this photo of {}",
)  # fmt: skip

LOOK_TEMPLATES: tuple[str, ...] = (
    "{look} of {}", "{} in {look} style", "{}, {look}", "{a_look} of {}", "{look}, {}", "{} as {look}",
    "a picture of {} in {look} style",
)  # fmt: skip
HELD_OUT_LOOK_TEMPLATES: tuple[str, ...] = ("an image of {} in {look} style", "a photo of {}, {look}")

BACKGROUND_TEMPLATES: tuple[str, ...] = (
    "{} on a {background} background",
    "{}, {background} background",
    "{} on {background}",
)

PLURAL: frozenset[str] = frozenset({"cherries"})


@dataclass(frozen=True)
class Scene:
    """What one picture shows, by name.

    Attributes:
        objects: one object, or two from left to right; names from ``OBJECTS``.
        look: name from ``LOOKS``.
        background: name from ``BACKGROUNDS``.
    """

    objects: tuple[str, ...]
    look: str = "plain"
    background: str = "white"


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an"; plural nouns stay as they are."""
    if noun in PLURAL:
        return noun
    return ("an " if noun[0] in "aeiou8" else "a ") + noun


def prompt(template: str, objects: tuple[str, ...], look: str = "plain") -> str:
    """Return a template filled with objects (joined by "and") and, where it asks for one, a look."""
    nouns = " and ".join(with_article(noun) for noun in objects)
    return template.format(nouns, look=look, a_look=with_article(look))


def caption(scene: Scene, rng: random.Random) -> str:
    """Return one of the many trained captions of a scene.

    One noun in four is a synonym and one in eight has no article; a background other than white is always named,
    so that a prompt which names none means white.
    """
    nouns = [_noun(name, rng) for name in scene.objects]
    subject = " and ".join(nouns)
    if scene.look == "plain":
        text = rng.choice(("{}", *PLAIN_TEMPLATES)).format(subject)
    else:
        look = _one_of(scene.look, LOOK_SYNONYMS, rng, share=0.15)
        text = rng.choice(LOOK_TEMPLATES).format(subject, look=look, a_look=with_article(look))
    if scene.background != "white" or (scene.look == "plain" and rng.random() < 0.05):
        text = rng.choice(BACKGROUND_TEMPLATES).format(text, background=scene.background)
    return text


def _noun(name: str, rng: random.Random) -> str:
    noun = _one_of(name, SYNONYMS, rng, share=0.25)
    return noun if rng.random() < 0.125 else with_article(noun)


def _one_of(name: str, synonyms: dict[str, tuple[str, ...]], rng: random.Random, *, share: float) -> str:
    if name in synonyms and rng.random() < share:
        return rng.choice(synonyms[name])
    return name

"""How much the quality bench measures on two cores: small in 20 minutes, standard in less than 3 hours, full in days.

A row of the table, a method on objects or on looks, rests on 300 pictures at least for what is erased, retained and
near; in the two larger budgets for everything, and in the full one every single concept does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.asking import Sizes
from bench.splits import LOOK_HALVES, OBJECT_HALVES, Half
from training.world import OBJECTS


@dataclass(frozen=True)
class Budget:
    """What is measured where the command line does not say.

    Attributes:
        objects: by half, how the concepts are chosen; all of the half where it is empty.
        looks: how many looks of a half at most.
        methods: only these; empty: all.
        steps: of drawing a picture.
        of_object: pictures of a cell whose concept is an object.
        of_look: pictures of a cell whose concept is a look.
    """

    objects: dict[Half, tuple[str, ...]]
    looks: int
    methods: tuple[str, ...]
    steps: int
    of_object: Sizes
    of_look: Sizes

    def concepts(self, half: Half) -> tuple[str, ...]:
        """Return the objects and looks of a half that are measured."""
        return (*(self.objects.get(half) or OBJECT_HALVES[half]), *LOOK_HALVES[half][: self.looks])

    def sizes(self, name: str) -> Sizes:
        """Return how many pictures a concept's cell has."""
        return self.of_object if name in OBJECTS else self.of_look

    def chosen(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Return those of the methods that this budget measures."""
        return tuple(method for method in methods if not self.methods or method in self.methods)


BUDGETS: dict[str, Budget] = {
    "small": Budget(
        objects={
            "tuning": ("cat", "fish", "bee", "orange", "hamburger", "plane"),
            "held-out": ("dog", "frog", "ladybug", "peach", "cookie", "train"),
        },
        looks=2,
        methods=("closed_form", "few_shot_lora", "uce", "few_shot_unlearning"),
        steps=8,
        of_object=Sizes(erased=50, retained=50, near=50, pairs=25, synonyms=25),
        of_look=Sizes(erased=150, retained=150, near=0, pairs=0, synonyms=75),
    ),
    "standard": Budget(
        objects={},
        looks=4,
        methods=("closed_form", "few_shot_lora", "uce", "esd_x", "few_shot_unlearning"),
        steps=10,
        of_object=Sizes(erased=20, retained=25, near=15, pairs=12, synonyms=25),
        of_look=Sizes(erased=100, retained=100, near=0, pairs=0, synonyms=100),
    ),
    "full": Budget(
        objects={},
        looks=4,
        methods=(),
        steps=10,
        of_object=Sizes(erased=300, retained=300, near=300, pairs=300, synonyms=300),
        of_look=Sizes(erased=300, retained=300, near=0, pairs=0, synonyms=300),
    ),
}

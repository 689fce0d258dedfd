"""What every erasing method is: a name, its settings, and a generator that does the work step by step."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from unsee_core.answers import EraseProgress
from unsee_core.errors import InvalidRequestError
from unsee_core.job import AnchoredConcept, EraseJob, OptionValue
from unsee_core.lora import LoraFactors
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord

COMMON_OPTIONS = ("strength", "rank", "steps")


@dataclass(frozen=True)
class MethodOption:
    """A setting that a method reads.

    Attributes:
        name: one of ``COMMON_OPTIONS``, a field of ``EraseJob``; any other is an item of ``EraseJob.options``.
        type: of its value.
        default: where the job does not say; None: the method chooses.
        description: what it does, in a sentence.
        least: smallest value that is allowed; of no use for a bool.
        most: largest value that is allowed.
        above: ``least`` itself is not allowed.
        refused_with_images: it says how pictures are drawn that a request's images take the place of.
    """

    name: str
    type: Literal["int", "float", "bool"]
    default: OptionValue | None
    description: str
    least: float = 0
    most: float = 0
    above: bool = False
    refused_with_images: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, for people: "1-64", "(0, 2]", "true, false"."""
        if self.type == "bool":
            return "true, false"
        return f"({self.least:g}, {self.most:g}]" if self.above else f"{self.least:g}-{self.most:g}"

    def check(self, path: str, value: OptionValue) -> None:
        """Raise InvalidRequestError, with ``path`` as the field, unless the value is allowed."""
        has_type = isinstance(value, bool) if self.type == "bool" else not isinstance(value, bool)
        if self.type == "int":
            has_type = has_type and isinstance(value, int)
        lowest_is_bad = self.above and value == self.least
        in_range = self.type == "bool" or (self.least <= value <= self.most and not lowest_is_bad)
        if not (has_type and in_range):
            raise InvalidRequestError.of(path, f"got {value}, allowed {self.allowed}")


@dataclass(frozen=True)
class Settings:
    """An erasure's settings with the method's defaults filled in.

    Attributes:
        strength: factor on the change; None: the method chooses.
        rank: of the factors; 0 for a method that has none to set.
        steps: of training; 0 for a method that does not train.
        options: what the method alone reads, by name.
    """

    method: str
    strength: float | None
    rank: int
    steps: int
    options: Mapping[str, OptionValue]

    def integer(self, name: str) -> int:
        """Return an option that is an int."""
        return int(self.options[name])

    def number(self, name: str) -> float:
        """Return an option that is a float."""
        return float(self.options[name])

    def flag(self, name: str) -> bool:
        """Return an option that is a bool."""
        return bool(self.options[name])

    def as_text(self) -> dict[str, str]:
        """Return what is not the same for every method, for an adapter's metadata."""
        return {name: str(value).lower() for name, value in self.options.items()}


@dataclass(frozen=True)
class InForce:
    """A stored adapter that an erasure is to be applied beside.

    Attributes:
        factors: its change, applied with weight 1.
        names: what its concepts are called; none where it does not say.
        replaced: those of its concepts in whose place something is drawn, each with that.
    """

    digest: str
    factors: LoraFactors
    names: tuple[str, ...]
    replaced: tuple[AnchoredConcept, ...] = ()


@dataclass(frozen=True)
class EraseContext:
    """All that a method works with.

    Attributes:
        pipeline: the resident model; read, never written.
        job: checked by ``check_job``.
        images: pictures of the concept, RGB.
        words: pseudo-words whose placeholders stand in the concept's name and synonyms.
        near_words: that may name what the pseudo-words do: no retain prompt has them.
        in_force: adapters that the erasure is to be applied beside.
        detector: folder of a CLIPModel that the operator gives to ``reward``; None: the model itself detects.
    """

    pipeline: Pipeline
    job: EraseJob
    images: tuple[Image.Image, ...]
    settings: Settings
    words: tuple[PseudoWord, ...] = ()
    near_words: tuple[str, ...] = ()
    detector: Path | None = None
    in_force: tuple[InForce, ...] = ()

    def with_in_force(self, *factors: LoraFactors) -> list[tuple[LoraFactors, float]]:
        """Return changes beside those of the adapters in force, as ``apply_factors`` takes them."""
        return [(change, 1.0) for change in (*(adapter.factors for adapter in self.in_force), *factors)]


@dataclass(frozen=True)
class Erasure:
    """What a method made.

    Attributes:
        factors: the change, with the strength folded in.
        strength: the factor that was folded in.
        stand_ins: what takes the place of each concept without an anchor, where nothing else is named; "" for none.
    """

    factors: LoraFactors
    strength: float
    stand_ins: tuple[str, ...] = ()


MethodRun = Generator[EraseProgress, None, Erasure]


@dataclass(frozen=True)
class Method:
    """An erasing method.

    Attributes:
        name: as a request names it.
        description: what it does, in a sentence.
        source: where it comes from: an arXiv id.
        needs_images: it cannot do without images.
        uses_anchor: it reads ``EraseJob.anchor``; otherwise an anchor is refused.
        uses_adapters: it reads ``EraseContext.in_force``; otherwise adapters in force are refused.
        options: what it reads of a job beyond concept, images, anchor, retain prompts and seed.
        run: yields after every step, so that it can be interleaved, and stopped by ``close()``. Same context, device
            type, thread count and versions: same factors, bit for bit.
    """

    name: str
    description: str
    source: str
    needs_images: bool
    uses_anchor: bool
    options: tuple[MethodOption, ...]
    run: Callable[[EraseContext], MethodRun]
    uses_adapters: bool = False

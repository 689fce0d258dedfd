"""What every erasing method is: a name, its settings, and a generator that does the work step by step."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from unsee_core.job import EraseJob, EraseProgress
from unsee_core.lora import LoraFactors
from unsee_core.pipeline import Pipeline

OptionName = Literal["strength", "rank", "steps", "layers", "train_final_norm"]
OptionValue = int | float | bool
MethodRun = Generator[EraseProgress, None, LoraFactors]


@dataclass(frozen=True)
class MethodOption:
    """A setting that a method reads.

    Attributes:
        name: field of ``EraseJob`` that sets it.
        default: where the job does not say.
        allowed: for people: "1-64", "(0, 2]", "true, false".
        description: what it does, in a sentence.
    """

    name: OptionName
    default: OptionValue
    allowed: str
    description: str

    @property
    def type(self) -> str:
        """The value's type: "int", "float" or "bool"."""
        return type(self.default).__name__


@dataclass(frozen=True)
class Settings:
    """An erasure's settings with the method's defaults filled in.

    Attributes:
        strength: factor folded into the change.
        rank: of the factors; 0 for a method that has none to set.
        steps: of training; 0 for a method that does not train.
        layers: how many of the encoder's last layers change.
    """

    method: str
    strength: float
    rank: int
    steps: int
    layers: int
    train_final_norm: bool

    def as_text(self) -> dict[str, str]:
        """Return what is not the same for every method, for an adapter's metadata."""
        return {"layers": str(self.layers), "train_final_norm": str(self.train_final_norm).lower()}


@dataclass(frozen=True)
class EraseContext:
    """All that a method works with.

    Attributes:
        pipeline: the resident model; read, never written.
        job: checked by ``check_job``.
        images: pictures of the concept, RGB.
    """

    pipeline: Pipeline
    job: EraseJob
    images: tuple[Image.Image, ...]
    settings: Settings


@dataclass(frozen=True)
class Method:
    """An erasing method.

    Attributes:
        name: as a request names it.
        description: what it does, in a sentence.
        source: where it comes from: an arXiv id.
        needs_images: it cannot do without images.
        uses_anchor: it reads ``EraseJob.anchor``; otherwise an anchor is refused.
        options: what it reads of a job beyond concept, images, anchor, retain prompts and seed.
        run: yields after every step, so that it can be interleaved, and stopped by ``close()``; returns the change with
            the strength folded in. Same context, device type, thread count and versions: same factors, bit for bit.
    """

    name: str
    description: str
    source: str
    needs_images: bool
    uses_anchor: bool
    options: tuple[MethodOption, ...]
    run: Callable[[EraseContext], MethodRun]

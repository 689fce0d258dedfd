"""What is asked: frozen dataclasses that check themselves before any model is touched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from unsee_core.adapter_schedule import AdapterSchedule
from unsee_core.checks import (
    check_adapter_name,
    check_adapter_ref,
    check_count,
    check_labels,
    check_range,
    check_text,
)
from unsee_core.errors import InvalidRequestError

MAX_IMAGES = 16
MAX_SEED = 2**63 - 1
MAX_GUARD_WORDS = 16
MAX_COMPOSED = 64
MAX_REPORT_IMAGES = 8
ConceptKind = Literal["object", "style", "person", "brand"]
ImageFormat = Literal["png", "jpeg", "webp"]
OptionValue = int | float | bool


@dataclass(frozen=True)
class Limits:
    """What the operator allows beyond what the dataclasses below check themselves.

    Attributes:
        max_image_bytes: of one image of an erasure.
        max_image_pixels: of one image of an erasure.
        max_size: width or height of a picture, in pixels.
        max_queue: jobs that may wait for the device.
        max_batch: rows of one U-Net call, and images in flight at a time.
    """

    max_erase_images: int = MAX_IMAGES
    max_image_bytes: int = 4 * 2**20
    max_image_pixels: int = 16 * 2**20
    max_num_images: int = MAX_IMAGES
    max_size: int = 1024
    max_steps: int = 200
    max_adapter_bytes: int = 64 * 2**20
    max_queue: int = 64
    max_batch: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(name, value, 1, 2**40)
        check_range("max_erase_images", self.max_erase_images, 1, MAX_IMAGES)
        check_range("max_num_images", self.max_num_images, 1, MAX_IMAGES)


class SchedulerName(Enum):
    """How noise is removed; the value is the class in diffusers."""

    DDIM = "DDIMScheduler"
    EULER = "EulerDiscreteScheduler"
    EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
    DPM_SOLVER_MULTISTEP = "DPMSolverMultistepScheduler"
    UNIPC = "UniPCMultistepScheduler"
    PNDM = "PNDMScheduler"


@dataclass(frozen=True)
class Concept:
    """What is to be erased.

    Attributes:
        name: as it stands in prompts, 1-200 characters; none: of an erasure, what its images show.
        synonyms: other names for it, 0-16.
        kind: chooses the prompt templates.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    kind: ConceptKind = "object"

    def __post_init__(self) -> None:
        if self.name or self.synonyms:
            check_text("concept.name", self.name, shortest=1, longest=200)
        check_count("concept.synonyms", len(self.synonyms), 16)
        for i, synonym in enumerate(self.synonyms):
            check_text(f"concept.synonyms[{i}]", synonym, shortest=1, longest=200)

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms, each once."""
        return tuple(dict.fromkeys((self.name, *self.synonyms)))


@dataclass(frozen=True)
class AnchoredConcept:
    """A concept, and what takes its place; "": the prompts without it."""

    concept: Concept
    anchor: str = ""


@dataclass(frozen=True)
class AdapterRef:
    """An adapter to be applied.

    Attributes:
        adapter: its name or digest.
        weight: factor on its change, in [-2, 2].
        schedule: on which steps it acts; None: on all.
        gate: it acts only on prompts that share a word with its concept.
    """

    adapter: str
    weight: float = 1.0
    schedule: AdapterSchedule | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        check_adapter_ref("adapters", self.adapter)
        check_range("adapters.weight", self.weight, -2, 2)


@dataclass(frozen=True)
class Guard:
    """Steers the denoising away from concepts that show in it; see ``unsee_core.guard``.

    Attributes:
        scale: how far, in [0, 10]; 0: off, 2: what it was tried with.
        words: prompts that say the concepts, 0-16, each of 1-200 characters; none: the request's adapters' concepts.
    """

    scale: float = 0.0
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("guard.scale", self.scale, 0, 10)
        if self.words and self.scale == 0:
            raise InvalidRequestError.of("guard.scale", "got 0 with words to guard against, allowed above 0")
        check_count("guard.words", len(self.words), MAX_GUARD_WORDS)
        for i, word in enumerate(self.words):
            check_text(f"guard.words[{i}]", word, shortest=1, longest=200)


@dataclass(frozen=True)
class EraseJob:
    """One concept to be erased. None stands for the method's own default.

    Attributes:
        images: encoded PNG, JPEG or WebP files; decoded, and checked as pictures, by the engine.
        anchor: what takes the concept's place; "" as None.
        strength: factor folded into the change, in (0, 2].
        rank: of the factors, 1-64.
        steps: 1-2000.
        adapter_name: None: a slug of the concept's name and eight digits of the digest.
        adapters_in_force: by name or digest: the erasure is made for the model as they leave it.
        report_images: prompts that are drawn by the unedited model and with the adapter, beside those in force, for the
            report; 0, or 2-8.
        keep_images: these pictures are stored with the adapter.
        options: what the method alone reads, by name; checked against the method by ``methods.check_job``.
    """

    concept: Concept
    images: tuple[bytes, ...] = field(default=(), repr=False)
    anchor: str | None = None
    retain_prompts: tuple[str, ...] = ()
    method: str | None = None
    strength: float | None = None
    rank: int | None = None
    steps: int | None = None
    seed: int = 0
    adapter_name: str | None = None
    replace: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    adapters_in_force: tuple[str, ...] = ()
    report_images: int = 0
    keep_images: bool = False

    def __post_init__(self) -> None:
        check_count("images", len(self.images), MAX_IMAGES)
        if not (self.concept.name or self.images):
            raise InvalidRequestError.of("concept.name", "got none, allowed 1-200 characters, or images alone")
        if self.anchor is not None:
            check_text("anchor", self.anchor, shortest=min(1, len(self.anchor)), longest=200)
        _check_edit(self)
        for name, value, most in (("rank", self.rank, 64), ("steps", self.steps, 2000)):
            if value is not None:
                check_range(name, value, 1, most)
        check_range("seed", self.seed, 0, MAX_SEED)
        check_count("adapters_in_force", len(self.adapters_in_force), 32)
        for i, name in enumerate(self.adapters_in_force):
            check_adapter_ref(f"adapters_in_force[{i}]", name)
        if self.report_images and not 2 <= self.report_images <= MAX_REPORT_IMAGES:
            raise InvalidRequestError.of(
                "report_images", f"got {self.report_images}, allowed 0 or 2-{MAX_REPORT_IMAGES}"
            )
        if self.report_images:  # prompt i is drawn from seed + i
            check_range("seed", self.seed, 0, MAX_SEED - MAX_IMAGES - MAX_REPORT_IMAGES)
        if self.keep_images and not self.report_images:
            raise InvalidRequestError.of(
                "keep_images", "got true without report_images, allowed with 2 of them at least"
            )


@dataclass(frozen=True)
class ComposeJob:
    """The concepts of many adapters to be erased by one, in one solve.

    Attributes:
        adapters: 2-64, by name or digest, each once.
        adapter_name: None: "composed" and eight digits of the digest.
        strength: factor folded into the change, in (0, 2]; None: the most at which held prompts stay.
    """

    adapters: tuple[str, ...]
    retain_prompts: tuple[str, ...] = ()
    strength: float | None = None
    adapter_name: str | None = None
    replace: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("adapters", len(self.adapters), 2, MAX_COMPOSED)
        for i, name in enumerate(self.adapters):
            check_adapter_ref(f"adapters[{i}]", name)
            if name in self.adapters[:i]:
                raise InvalidRequestError.of(f"adapters[{i}]", f"got {name!r} a second time, allowed once each")
        _check_edit(self)


@dataclass(frozen=True)
class GenerateJob:
    """Images to be drawn. None stands for the model's own default.

    Attributes:
        seed: image i uses its own CPU generator seeded ``seed + i``.
        width: pixels, a multiple of the model's size multiple; checked against the model by the engine.
        height: as ``width``.
        guard: a second line against what passes the adapters; off by default.
    """

    prompt: str
    negative_prompt: str = ""
    adapters: tuple[AdapterRef, ...] = ()
    seed: int = 0
    steps: int = 25
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    num_images: int = 1
    scheduler: SchedulerName | None = None
    image_format: ImageFormat = "png"
    no_metadata: bool = False
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt, shortest=0, longest=2000)
        check_text("negative_prompt", self.negative_prompt, shortest=0, longest=2000)
        check_count("adapters", len(self.adapters), 32)
        names = [ref.adapter for ref in self.adapters]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InvalidRequestError.of(f"adapters[{i}]", f"got {name!r} a second time, allowed once each")
        check_range("seed", self.seed, 0, MAX_SEED - MAX_IMAGES + 1)
        check_range("steps", self.steps, 1, 200)
        if self.guidance_scale is not None:
            check_range("guidance_scale", self.guidance_scale, 0, 50)
        check_range("num_images", self.num_images, 1, MAX_IMAGES)


def _check_edit(job: EraseJob | ComposeJob) -> None:
    """Check what both ways to make an adapter share."""
    check_count("retain_prompts", len(job.retain_prompts), 256)
    for i, prompt in enumerate(job.retain_prompts):
        check_text(f"retain_prompts[{i}]", prompt, shortest=1, longest=1000)
    if job.strength is not None and not 0 < job.strength <= 2:
        raise InvalidRequestError.of("strength", f"got {job.strength}, allowed (0, 2]")
    if job.adapter_name is not None:
        check_adapter_name("adapter_name", job.adapter_name)
    check_labels(job.labels)

"""What is asked and what is answered: frozen dataclasses that check themselves before any model is touched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal

from unsee_core.errors import InvalidRequestError

MAX_IMAGES = 16
MAX_SEED = 2**63 - 1
ConceptKind = Literal["object", "style", "person", "brand"]
ImageFormat = Literal["png", "jpeg", "webp"]
Phase = Literal["prepare", "train", "report"]
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


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
        name: as it stands in prompts, 1-200 characters.
        synonyms: other names for it, 0-16.
        kind: chooses the prompt templates.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    kind: ConceptKind = "object"

    def __post_init__(self) -> None:
        check_text("concept.name", self.name, shortest=1, longest=200)
        check_count("concept.synonyms", len(self.synonyms), 16)
        for i, synonym in enumerate(self.synonyms):
            check_text(f"concept.synonyms[{i}]", synonym, shortest=1, longest=200)

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms, each once."""
        return tuple(dict.fromkeys((self.name, *self.synonyms)))


@dataclass(frozen=True)
class AdapterRef:
    """An adapter by name or digest, and the factor on its change, in [-2, 2]."""

    adapter: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_adapter_ref("adapters", self.adapter)
        check_range("adapters.weight", self.weight, -2, 2)


@dataclass(frozen=True)
class EraseJob:
    """One concept to be erased. None stands for the method's own default.

    Attributes:
        images: encoded PNG, JPEG or WebP files; decoded, and checked as pictures, by the engine.
        anchor: what takes the concept's place.
        strength: factor folded into the change, in (0, 2].
        rank: of the factors, 1-64.
        steps: 1-2000.
        adapter_name: None: a slug of the concept's name and eight digits of the digest.
        layers: how many of the encoder's last layers change, 1 to all.
        train_final_norm: the encoder's final layer norm is trained too.
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
    layers: int | None = None
    train_final_norm: bool = False

    def __post_init__(self) -> None:
        check_count("images", len(self.images), MAX_IMAGES)
        if self.anchor is not None:
            check_text("anchor", self.anchor, shortest=0, longest=200)
        check_count("retain_prompts", len(self.retain_prompts), 256)
        for i, prompt in enumerate(self.retain_prompts):
            check_text(f"retain_prompts[{i}]", prompt, shortest=1, longest=1000)
        if self.strength is not None and not 0 < self.strength <= 2:
            raise InvalidRequestError.of("strength", f"got {self.strength}, allowed (0, 2]")
        for name, value, most in (("rank", self.rank, 64), ("steps", self.steps, 2000), ("layers", self.layers, 64)):
            if value is not None:
                check_range(name, value, 1, most)
        check_range("seed", self.seed, 0, MAX_SEED)
        if self.adapter_name is not None:
            check_adapter_name("adapter_name", self.adapter_name)
        check_labels(self.labels)


@dataclass(frozen=True)
class GenerateJob:
    """Images to be drawn. None stands for the model's own default.

    Attributes:
        seed: image i uses its own CPU generator seeded ``seed + i``.
        width: pixels, a multiple of the model's size multiple; checked against the model by the engine.
        height: as ``width``.
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


@dataclass(frozen=True)
class Drift:
    """How far prompts moved, as a share of their distance to the empty prompt."""

    p50: float
    p95: float
    max: float
    worst_prompt: str
    prompts: int


@dataclass(frozen=True)
class Report:
    """What an erasure did; see ``unsee_core.report``."""

    concept_drift: Drift
    retain_drift: Drift
    empty_drift: float
    image_loss_before: float | None
    image_loss_after: float | None
    phase_seconds: Mapping[str, float]


@dataclass(frozen=True)
class BaseModel:
    """Digests of a model, each ``sha256:`` and hex."""

    name: str
    tokenizer_digest: str
    text_encoder_digest: str
    unet_digest: str


@dataclass(frozen=True)
class Manifest:
    """A stored adapter, without its bytes.

    Attributes:
        base_mismatch: made on a text encoder with another digest than the one it is asked for.
        report: None for imported adapters.
    """

    name: str
    digest: str
    size_bytes: int
    concept: Concept | None
    method: str
    rank: int
    strength: float
    steps: int
    seed: int
    labels: Mapping[str, str]
    create_time: datetime
    base_model: BaseModel
    has_final_norm: bool
    report: Report | None = None
    base_mismatch: bool = False


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter as it was applied."""

    name: str
    digest: str
    weight: float
    base_mismatch: bool


@dataclass(frozen=True)
class Queued:
    """The job was accepted; ``position`` jobs of its kind are ahead of it."""

    position: int


@dataclass(frozen=True)
class EraseProgress:
    """A step of an erasure is done; ``eta_s`` is None until it can be told."""

    phase: Phase
    step: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)
    eta_s: float | None = None


@dataclass(frozen=True)
class EraseCompleted:
    """The adapter is stored."""

    manifest: Manifest


@dataclass(frozen=True)
class GenerateProgress:
    """A denoising step is done."""

    step: int
    total: int
    eta_s: float | None = None


@dataclass(frozen=True)
class ImageReady:
    """A finished image: ``data`` is the encoded file."""

    index: int
    seed: int
    format: ImageFormat
    width: int
    height: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class GenerateTimings:
    """Seconds; ``denoise_s`` is shared with the jobs in the same batch."""

    queue_s: float
    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True)
class GenerateCompleted:
    """Everything needed to draw the images again."""

    seeds: tuple[int, ...]
    model_digest: str
    scheduler_class: str
    dtype: str
    adapters: tuple[ResolvedAdapter, ...]
    prompt_cut_off: str
    negative_prompt_cut_off: str
    steps: int
    guidance_scale: float
    width: int
    height: int
    timings: GenerateTimings


EraseEvent = Queued | EraseProgress | EraseCompleted
GenerateEvent = Queued | GenerateProgress | ImageReady | GenerateCompleted


def check_text(name: str, value: str, *, shortest: int, longest: int) -> None:
    """Raise InvalidRequestError unless ``value`` has an allowed length and no control characters."""
    if not shortest <= len(value) <= longest:
        raise InvalidRequestError.of(name, f"got {len(value)} characters, allowed {shortest}-{longest}")
    if shortest and not value.strip():
        raise InvalidRequestError.of(name, "got only white space, allowed visible characters")
    bad = next((c for c in value if not c.isprintable() and c not in "\n\t"), None)
    if bad is not None:
        raise InvalidRequestError.of(name, f"got the control character {bad!r}, allowed printable text")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise InvalidRequestError unless ``least <= value <= most``; NaN is refused too."""
    if not least <= value <= most:
        raise InvalidRequestError.of(name, f"got {value}, allowed {least}-{most}")


def check_count(name: str, count: int, most: int) -> None:
    """Raise InvalidRequestError if there are more than ``most``."""
    if count > most:
        raise InvalidRequestError.of(name, f"got {count}, allowed up to {most}")


def check_adapter_name(name: str, value: str) -> None:
    """Raise InvalidRequestError unless ``value`` can name an adapter."""
    if not _NAME.match(value):
        raise InvalidRequestError.of(name, f"got {value[:80]!r}, allowed [a-z0-9][a-z0-9._-]{{0,62}}")


def check_adapter_ref(name: str, value: str) -> None:
    """Raise InvalidRequestError unless ``value`` is an adapter's name or digest."""
    if not (_NAME.match(value) or _DIGEST.match(value)):
        allowed = "a name ([a-z0-9][a-z0-9._-]{0,62}) or a digest (sha256: and 64 hex digits)"
        raise InvalidRequestError.of(name, f"got {value[:80]!r}, allowed {allowed}")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidRequestError unless the labels can be stored."""
    check_count("labels", len(labels), 32)
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            raise InvalidRequestError.of("labels", f"got the key {key[:80]!r}, allowed [a-z0-9][a-z0-9._/-]{{0,62}}")
        check_text(f"labels[{key}]", value, shortest=0, longest=256)

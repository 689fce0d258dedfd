"""What is answered: the events of a job, and what is kept of an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from unsee_core.adapter_schedule import AdapterSchedule
from unsee_core.audit.answers import AuditReport
from unsee_core.job import Concept, Guard, ImageFormat

Phase = Literal["prepare", "train", "harden", "report", "draw"]


@dataclass(frozen=True)
class Drift:
    """How far prompts moved, as a share of their distance to the empty prompt."""

    p50: float
    p95: float
    max: float
    worst_prompt: str
    prompts: int


@dataclass(frozen=True)
class NamedDrift:
    """How far a neighbour's prompt moved, as in ``Drift``; the name is a word, or a retain prompt of the request."""

    name: str
    drift: float


@dataclass(frozen=True)
class Integrity:
    """How far pictures with an adapter are from those without it, at equal seeds; see ``unsee_core.integrity``.

    Attributes:
        mean_distance: perceptual, of the pictures that must stay; 0 where they are the same.
        max_distance: the largest of them.
        worst_prompt: of the largest.
        mean_ms_ssim: of the same; 1 where they are the same.
        min_ms_ssim: the smallest of them.
        concept_distance: of the pictures that ask for the concept.
        concept_ms_ssim: of those.
        prompts: that must stay and were drawn.
        mean_lpips: of the pictures that must stay; None, as the other two, where the machine has no LPIPS.
        max_lpips: the largest of them.
        concept_lpips: of the pictures that ask for the concept.
    """

    mean_distance: float
    max_distance: float
    worst_prompt: str
    mean_ms_ssim: float
    min_ms_ssim: float
    concept_distance: float
    concept_ms_ssim: float
    prompts: int
    mean_lpips: float | None = None
    max_lpips: float | None = None
    concept_lpips: float | None = None


@dataclass(frozen=True)
class ReportImage:
    """A picture that was drawn for a report.

    Attributes:
        seed: of its starting noise; the same without and with the adapter.
        of_concept: the prompt asks for the concept; else it must stay.
        png: the encoded file.
    """

    prompt: str
    seed: int
    with_adapter: bool
    of_concept: bool
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class KeptImage:
    """A picture that is stored with an adapter: a ``ReportImage`` with its digest in place of the file."""

    prompt: str
    seed: int
    with_adapter: bool
    of_concept: bool
    digest: str


@dataclass(frozen=True)
class Report:
    """What an erasure did; see ``unsee_core.report``.

    Attributes:
        erase_ratio: how much of the concept is left: 1 for all of it, 0 or less for none; None: made before it was
            measured.
        worst_erase_ratio: the same under a small perturbation; None as above.
        spelling_ratios: the same for other spellings of the name, by rule.
        worst_neighbours: five at most, the worst first.
        reference_image_loss: of the images, without the adapter, under the anchor's prompts or, where there is no
            anchor, other words'; None without images.
        warnings: sentences for whoever asked for the erasure.
        concept_ratios: the erase ratio of each concept by its name, of a composed adapter; its ``erase_ratio`` is their
            mean, and ``worst_erase_ratio`` the worst of theirs.
        integrity: None unless pictures were asked for.
    """

    concept_drift: Drift
    retain_drift: Drift
    empty_drift: float
    image_loss_before: float | None
    image_loss_after: float | None
    phase_seconds: Mapping[str, float]
    erase_ratio: float | None = None
    worst_erase_ratio: float | None = None
    spelling_ratios: Mapping[str, float] = field(default_factory=dict)
    worst_neighbours: tuple[NamedDrift, ...] = ()
    reference_image_loss: float | None = None
    warnings: tuple[str, ...] = ()
    concept_ratios: Mapping[str, float] = field(default_factory=dict)
    integrity: Integrity | None = None


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
        concept: None where nobody named one, and of a composed adapter, which has ``concepts``.
        base_mismatch: made on a text encoder with another digest than the one it is asked for.
        report: None for imported adapters.
        concepts: of a composed adapter.
        audits: attempts to undo it, the newest last.
        images: the report's pictures, where they were to be kept.
        settings: what it was made with, by name, as text; see ``AdapterMetadata``.
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
    concepts: tuple[Concept, ...] = ()
    audits: tuple[AuditReport, ...] = ()
    images: tuple[KeptImage, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def erased(self) -> tuple[Concept, ...]:
        """All concepts that it erases."""
        return self.concepts or ((self.concept,) if self.concept else ())


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter as it was applied.

    Attributes:
        schedule: on which steps it acted; None: on all.
        gate: it was to act only on prompts that share a word with its concept.
        acts_on_prompt: no gate kept it from the prompt.
        acts_on_negative_prompt: no gate kept it from the negative prompt.
    """

    name: str
    digest: str
    weight: float
    base_mismatch: bool
    schedule: AdapterSchedule | None = None
    gate: bool = False
    acts_on_prompt: bool = True
    acts_on_negative_prompt: bool = True


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
    """Everything needed to draw the images again.

    Attributes:
        guard: as it was used, with the words that it took from the adapters; off, it has none.
    """

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
    guard: Guard = field(default_factory=Guard)


EraseEvent = Queued | EraseProgress | ReportImage | EraseCompleted
GenerateEvent = Queued | GenerateProgress | ImageReady | GenerateCompleted

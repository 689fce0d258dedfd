"""Stored adapters as the server describes them, as frozen dataclasses; read from the wire here alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from unsee.durations import seconds_of
from unsee.names import KINDS, ConceptKind
from unsee.v1 import common_pb2


@dataclass(frozen=True)
class Concept:
    """What an adapter erases; the name is empty where it is not known."""

    name: str
    synonyms: tuple[str, ...]
    kind: ConceptKind


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
    """What an erasure did.

    Attributes:
        concept_drift: of the concept's prompts in templates that were not trained on; wants to be large.
        retain_drift: of the prompts that are to stay; wants to be small.
        empty_drift: of the empty prompt, that every guided image uses.
        image_loss_before: error of the U-Net on the request's images without the adapter; None without images.
        image_loss_after: the same with it; larger means that they are harder to draw.
        phase_seconds: wall-clock seconds of each phase.
    """

    concept_drift: Drift
    retain_drift: Drift
    empty_drift: float
    image_loss_before: float | None
    image_loss_after: float | None
    phase_seconds: Mapping[str, float]


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter was made on, and its digests."""

    name: str
    tokenizer_digest: str
    text_encoder_digest: str
    unet_digest: str


@dataclass(frozen=True)
class AdapterInfo:
    """A stored adapter, without its bytes.

    Attributes:
        digest: ``sha256:`` and hex; names exactly these bytes for ever.
        concept: what it erases; without a name for a composed adapter, which has ``concepts``.
        base_mismatch: made on a text encoder with another digest than the server's.
        report: None for imported adapters.
        concepts: of a composed adapter; empty for any other.
    """

    name: str
    digest: str
    size_bytes: int
    concept: Concept
    method: str
    rank: int
    strength: float
    steps: int
    seed: int
    labels: Mapping[str, str]
    create_time: datetime
    base_model: BaseModel
    base_mismatch: bool
    has_final_norm: bool
    report: Report | None
    concepts: tuple[Concept, ...]


def adapter_info(message: common_pb2.Adapter) -> AdapterInfo:
    """Return an adapter from the wire."""
    base = message.base_model
    return AdapterInfo(
        name=message.name,
        digest=message.digest,
        size_bytes=message.size_bytes,
        concept=concept_info(message.concept),
        method=message.method,
        rank=message.rank,
        strength=message.strength,
        steps=message.steps,
        seed=message.seed,
        labels=dict(message.labels),
        create_time=message.create_time.ToDatetime(UTC),
        base_model=BaseModel(base.name, base.tokenizer_digest, base.text_encoder_digest, base.unet_digest),
        base_mismatch=message.base_mismatch,
        has_final_norm=message.has_final_norm,
        report=_report(message.report) if message.HasField("report") else None,
        concepts=tuple(map(concept_info, message.concepts)),
    )


def concept_info(message: common_pb2.Concept) -> Concept:
    """Return a concept from the wire."""
    names = {number: name for name, number in KINDS.items()}
    return Concept(message.name, tuple(message.synonyms), names.get(message.kind, "object"))


def _report(message: common_pb2.Report) -> Report:
    has_images = message.HasField("image_loss_before")
    return Report(
        concept_drift=_drift(message.concept_drift),
        retain_drift=_drift(message.retain_drift),
        empty_drift=message.empty_drift,
        image_loss_before=message.image_loss_before if has_images else None,
        image_loss_after=message.image_loss_after if has_images else None,
        phase_seconds={phase: seconds_of(duration) for phase, duration in message.phase_durations.items()},
    )


def _drift(message: common_pb2.Drift) -> Drift:
    return Drift(message.p50, message.p95, message.max, message.worst_prompt, message.prompts)

"""Stored adapters as the server describes them, as frozen dataclasses; read from the wire here alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

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
class NamedDrift:
    """How far a word, a stored concept or a retain prompt moved, as ``Drift`` measures it."""

    name: str
    drift: float


@dataclass(frozen=True)
class Integrity:
    """How far pictures with an adapter are from those without it, at equal seeds.

    Attributes:
        mean_distance: perceptual, of the pictures that must stay; 0 where they are the same, 2 at most.
        max_distance: the largest of them.
        worst_prompt: of the largest.
        mean_ms_ssim: of the same; 1 where they are the same, 0 at least.
        min_ms_ssim: the smallest of them.
        concept_distance: of the pictures that ask for the concept; wants to be large.
        concept_ms_ssim: of those.
        prompts: that must stay and were drawn.
        mean_lpips: of the pictures that must stay; None, as the other two, where the server has no LPIPS.
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
    mean_lpips: float | None
    max_lpips: float | None
    concept_lpips: float | None


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
        erase_ratio: how much of the concept is left in prompts not trained on: 1 for all, 0 or less for none; None in
            reports of earlier servers.
        worst_erase_ratio: the same in the worst case of a small change of what enters the layers; None as above.
        spelling_ratios: the same for other spellings of the concept's name, by rule.
        worst_neighbours: what must stay and moved most, five at most, the worst first.
        reference_image_loss: as ``image_loss_before``, under the anchor's prompts or, without one, other words'.
        warnings: sentences for a person.
        concept_ratios: of a composed adapter, the erase ratio of each concept by its name.
        integrity: what it does to pictures; None unless ``report_images`` were asked for.
    """

    concept_drift: Drift
    retain_drift: Drift
    empty_drift: float
    image_loss_before: float | None
    image_loss_after: float | None
    phase_seconds: Mapping[str, float]
    erase_ratio: float | None
    worst_erase_ratio: float | None
    spelling_ratios: Mapping[str, float]
    worst_neighbours: tuple[NamedDrift, ...]
    reference_image_loss: float | None
    warnings: tuple[str, ...]
    concept_ratios: Mapping[str, float]
    integrity: Integrity | None


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
        settings: what it was made with, by name: options, "anchor", what "stands_in" for the concept, ...
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
    settings: Mapping[str, str]


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
        settings=dict(message.settings),
    )


def concept_info(message: common_pb2.Concept) -> Concept:
    """Return a concept from the wire."""
    names = {number: name for name, number in KINDS.items()}
    return Concept(message.name, tuple(message.synonyms), names.get(message.kind, "object"))


def _report(message: common_pb2.Report) -> Report:
    return Report(
        concept_drift=_drift(message.concept_drift),
        retain_drift=_drift(message.retain_drift),
        empty_drift=message.empty_drift,
        phase_seconds={phase: seconds_of(duration) for phase, duration in message.phase_durations.items()},
        spelling_ratios=dict(sorted(message.spelling_ratios.items())),
        worst_neighbours=tuple(NamedDrift(one.name, one.drift) for one in message.worst_neighbours),
        warnings=tuple(message.warnings),
        concept_ratios=dict(sorted(message.concept_ratios.items())),
        image_loss_before=_if_there(message, "image_loss_before"),
        image_loss_after=_if_there(message, "image_loss_after"),
        reference_image_loss=_if_there(message, "reference_image_loss"),
        erase_ratio=_if_there(message, "erase_ratio"),
        worst_erase_ratio=_if_there(message, "worst_erase_ratio"),
        integrity=_integrity(message.integrity) if message.HasField("integrity") else None,
    )


def _integrity(message: common_pb2.Integrity) -> Integrity:
    optional = {field.name for field in message.DESCRIPTOR.fields if field.has_presence}
    names = (field.name for field in fields(Integrity))
    values: dict[str, Any] = {
        name: _if_there(message, name) if name in optional else getattr(message, name) for name in names
    }
    return Integrity(**values)


def _if_there(message: Message, name: str) -> float | None:
    return float(getattr(message, name)) if message.HasField(name) else None


def _drift(message: common_pb2.Drift) -> Drift:
    return Drift(message.p50, message.p95, message.max, message.worst_prompt, message.prompts)

"""What happens to work on the server, as frozen dataclasses; read from the wire here alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from unsee.applying import Guard, ResolvedAdapter, resolved_adapter
from unsee.durations import seconds_of
from unsee.images import GeneratedImage, ReportImage
from unsee.names import IMAGE_FORMATS
from unsee.v1 import common_pb2, erase_pb2, generate_pb2

Phase = Literal["prepare", "train", "harden", "report", "draw"]
_PHASES: "Mapping[erase_pb2.ErasePhase.ValueType, Phase]" = {
    erase_pb2.ERASE_PHASE_PREPARE: "prepare",
    erase_pb2.ERASE_PHASE_TRAIN: "train",
    erase_pb2.ERASE_PHASE_HARDEN: "harden",
    erase_pb2.ERASE_PHASE_REPORT: "report",
    erase_pb2.ERASE_PHASE_DRAW: "draw",
}


@dataclass(frozen=True)
class Queued:
    """The request was accepted; so many of its kind are ahead of it."""

    request_id: str
    position: int


@dataclass(frozen=True)
class EraseProgress:
    """A step of an erasure is done; ``eta_s`` is None until it can be told."""

    phase: Phase
    step: int
    total: int
    losses: Mapping[str, float]
    eta_s: float | None


@dataclass(frozen=True)
class GenerateProgress:
    """A denoising step is done."""

    step: int
    total: int
    eta_s: float | None


@dataclass(frozen=True)
class GenerateResult:
    """Pictures, and everything needed to draw them again; a sequence of its images.

    Attributes:
        prompt_cut_off: what of the prompt fell beyond 77 tokens.
        guard: as it was used, with its words; None: it was off.
        seconds: by part: queue, encode, denoise, decode, total.
    """

    images: tuple[GeneratedImage, ...]
    seeds: tuple[int, ...]
    model_digest: str
    scheduler: str
    dtype: str
    adapters: tuple[ResolvedAdapter, ...]
    prompt_cut_off: str
    negative_prompt_cut_off: str
    steps: int
    guidance_scale: float
    width: int
    height: int
    guard: Guard | None
    seconds: Mapping[str, float] = field(repr=False)

    def __iter__(self) -> Iterator[GeneratedImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> GeneratedImage:
        return self.images[index]


def erase_progress(message: erase_pb2.EraseProgress) -> EraseProgress:
    """Return a step of an erasure from the wire; a phase of a later server counts as training."""
    return EraseProgress(
        phase=_PHASES.get(message.phase, "train"),
        step=message.step,
        total=message.total,
        losses=dict(message.losses),
        eta_s=seconds_of(message.eta) if message.HasField("eta") else None,
    )


def report_image(message: common_pb2.ReportImage) -> ReportImage:
    """Return a report's picture from the wire."""
    return ReportImage(message.prompt, message.seed, message.with_adapter, message.of_concept, message.png)


def generate_progress(message: generate_pb2.GenerateProgress) -> GenerateProgress:
    """Return a denoising step from the wire."""
    return GenerateProgress(message.step, message.total, seconds_of(message.eta) if message.HasField("eta") else None)


def generated_image(message: generate_pb2.GenerateImage) -> GeneratedImage:
    """Return a picture from the wire."""
    names = {number: name for name, number in IMAGE_FORMATS.items()}
    return GeneratedImage(
        index=message.index,
        seed=message.seed,
        format=names.get(message.format, "png"),
        width=message.width,
        height=message.height,
        data=message.data,
    )


def generate_result(message: generate_pb2.GenerateCompleted, images: tuple[GeneratedImage, ...]) -> GenerateResult:
    """Return the end of a generation from the wire, with the images that came before it."""
    timings = message.timings
    return GenerateResult(
        images=images,
        seeds=tuple(message.seeds),
        model_digest=message.model_digest,
        scheduler=message.scheduler_class,
        dtype=message.dtype,
        adapters=tuple(resolved_adapter(adapter) for adapter in message.adapters),
        prompt_cut_off=message.prompt_cut_off,
        negative_prompt_cut_off=message.negative_prompt_cut_off,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        width=message.width,
        height=message.height,
        guard=Guard(message.guard.scale, tuple(message.guard.words)) if message.HasField("guard") else None,
        seconds={
            "queue": seconds_of(timings.queue),
            "encode": seconds_of(timings.encode),
            "denoise": seconds_of(timings.denoise),
            "decode": seconds_of(timings.decode),
            "total": seconds_of(timings.total),
        },
    )

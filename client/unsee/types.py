"""What the server tells, as frozen dataclasses; read from the wire here alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from unsee.images import GeneratedImage
from unsee.v1 import common_pb2, erase_pb2, generate_pb2, info_pb2

ConceptKind = Literal["object", "style", "person", "brand"]
AdapterFormat = Literal["diffusers", "peft", "kohya"]
ImageFormat = Literal["png", "jpeg", "webp"]
SchedulerName = Literal["ddim", "euler", "euler_ancestral", "dpm_solver_multistep", "unipc", "pndm"]
Phase = Literal["prepare", "train", "report"]

KINDS: "Mapping[ConceptKind, common_pb2.ConceptKind.ValueType]" = {
    "object": common_pb2.CONCEPT_KIND_OBJECT,
    "style": common_pb2.CONCEPT_KIND_STYLE,
    "person": common_pb2.CONCEPT_KIND_PERSON,
    "brand": common_pb2.CONCEPT_KIND_BRAND,
}
FORMATS: "Mapping[AdapterFormat, common_pb2.AdapterFormat.ValueType]" = {
    "diffusers": common_pb2.ADAPTER_FORMAT_DIFFUSERS,
    "peft": common_pb2.ADAPTER_FORMAT_PEFT,
    "kohya": common_pb2.ADAPTER_FORMAT_KOHYA,
}
IMAGE_FORMATS: "Mapping[ImageFormat, generate_pb2.ImageFormat.ValueType]" = {
    "png": generate_pb2.IMAGE_FORMAT_PNG,
    "jpeg": generate_pb2.IMAGE_FORMAT_JPEG,
    "webp": generate_pb2.IMAGE_FORMAT_WEBP,
}
SCHEDULERS: "Mapping[SchedulerName, generate_pb2.Scheduler.ValueType]" = {
    "ddim": generate_pb2.SCHEDULER_DDIM,
    "euler": generate_pb2.SCHEDULER_EULER,
    "euler_ancestral": generate_pb2.SCHEDULER_EULER_ANCESTRAL,
    "dpm_solver_multistep": generate_pb2.SCHEDULER_DPM_SOLVER_MULTISTEP,
    "unipc": generate_pb2.SCHEDULER_UNIPC,
    "pndm": generate_pb2.SCHEDULER_PNDM,
}
_PHASES: "Mapping[erase_pb2.ErasePhase.ValueType, Phase]" = {
    erase_pb2.ERASE_PHASE_PREPARE: "prepare",
    erase_pb2.ERASE_PHASE_TRAIN: "train",
    erase_pb2.ERASE_PHASE_REPORT: "report",
}


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
        base_mismatch: made on a text encoder with another digest than the server's.
        report: None for imported adapters.
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
class ResolvedAdapter:
    """An adapter as it was applied."""

    name: str
    digest: str
    weight: float
    base_mismatch: bool


@dataclass(frozen=True)
class GenerateResult:
    """Pictures, and everything needed to draw them again; a sequence of its images.

    Attributes:
        prompt_cut_off: what of the prompt fell beyond 77 tokens.
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
    seconds: Mapping[str, float] = field(repr=False)

    def __iter__(self) -> Iterator[GeneratedImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> GeneratedImage:
        return self.images[index]


@dataclass(frozen=True)
class OptionInfo:
    """A setting of a method."""

    name: str
    type: str
    default: str
    allowed: str
    description: str


@dataclass(frozen=True)
class MethodInfo:
    """An erasing method of the server."""

    name: str
    description: str
    source: str
    needs_images: bool
    uses_anchor: bool
    options: tuple[OptionInfo, ...]


@dataclass(frozen=True)
class ModelInfo:
    """The resident model; sizes in pixels."""

    name: str
    digest: str
    tokenizer_digest: str
    text_encoder_digest: str
    unet_digest: str
    vae_digest: str
    prediction_type: str
    device: str
    dtype: str
    default_size: int
    size_multiple: int
    text_encoder_layers: int
    text_encoder_width: int
    max_tokens: int
    default_guidance_scale: float


@dataclass(frozen=True)
class Limits:
    """What the server allows."""

    max_erase_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_num_images: int
    max_size: int
    max_steps: int
    max_adapter_bytes: int
    max_queue: int


@dataclass(frozen=True)
class ServerInfo:
    """What the server is and what it allows."""

    version: str
    model: ModelInfo
    limits: Limits
    default_method: str
    methods: tuple[MethodInfo, ...]
    schedulers: tuple[SchedulerName, ...]


def adapter_info(message: common_pb2.Adapter) -> AdapterInfo:
    """Return an adapter from the wire."""
    base = message.base_model
    return AdapterInfo(
        name=message.name,
        digest=message.digest,
        size_bytes=message.size_bytes,
        concept=_concept(message.concept),
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
    )


def erase_progress(message: erase_pb2.EraseProgress) -> EraseProgress:
    """Return a step of an erasure from the wire; a phase of a later server counts as training."""
    return EraseProgress(
        phase=_PHASES.get(message.phase, "train"),
        step=message.step,
        total=message.total,
        losses=dict(message.losses),
        eta_s=_seconds(message.eta) if message.HasField("eta") else None,
    )


def generate_progress(message: generate_pb2.GenerateProgress) -> GenerateProgress:
    """Return a denoising step from the wire."""
    return GenerateProgress(message.step, message.total, _seconds(message.eta) if message.HasField("eta") else None)


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
        adapters=tuple(ResolvedAdapter(a.name, a.digest, a.weight, a.base_mismatch) for a in message.adapters),
        prompt_cut_off=message.prompt_cut_off,
        negative_prompt_cut_off=message.negative_prompt_cut_off,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        width=message.width,
        height=message.height,
        seconds={
            "queue": _seconds(timings.queue),
            "encode": _seconds(timings.encode),
            "denoise": _seconds(timings.denoise),
            "decode": _seconds(timings.decode),
            "total": _seconds(timings.total),
        },
    )


def server_info(message: info_pb2.GetServerInfoResponse) -> ServerInfo:
    """Return what the server is from the wire."""
    names = {number: name for name, number in SCHEDULERS.items()}
    model, limits = message.model, message.limits
    return ServerInfo(
        version=message.version,
        model=ModelInfo(**{name: getattr(model, name) for name in ModelInfo.__dataclass_fields__}),
        limits=Limits(**{name: getattr(limits, name) for name in Limits.__dataclass_fields__}),
        default_method=message.default_method,
        methods=tuple(_method(m) for m in message.methods),
        schedulers=tuple(names[number] for number in message.schedulers if number in names),
    )


def _method(message: info_pb2.MethodInfo) -> MethodInfo:
    options = (OptionInfo(o.name, o.type, o.default_value, o.allowed, o.description) for o in message.options)
    return MethodInfo(
        name=message.name,
        description=message.description,
        source=message.source,
        needs_images=message.needs_images,
        uses_anchor=message.uses_anchor,
        options=tuple(options),
    )


def _concept(message: common_pb2.Concept) -> Concept:
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
        phase_seconds={phase: _seconds(duration) for phase, duration in message.phase_durations.items()},
    )


def _drift(message: common_pb2.Drift) -> Drift:
    return Drift(message.p50, message.p95, message.max, message.worst_prompt, message.prompts)


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9

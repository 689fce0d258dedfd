"""What the server is and allows, as frozen dataclasses; read from the wire here alone."""

from dataclasses import dataclass

from unsee.names import SCHEDULERS, SchedulerName
from unsee.v1 import info_pb2


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
    uses_adapters: bool
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
        uses_adapters=message.uses_adapters,
        options=tuple(options),
    )

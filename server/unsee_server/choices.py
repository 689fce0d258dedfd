"""The wire's closed choices -> the core's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from unsee.v1 import common_pb2, generate_pb2
from unsee_core.errors import InvalidRequestError
from unsee_core.job import ConceptKind, ImageFormat, SchedulerName

if TYPE_CHECKING:
    from unsee_core.library import Format  # imports torch, which takes longer than opening the ports may


T = TypeVar("T")

KINDS: Mapping[int, ConceptKind] = {
    common_pb2.CONCEPT_KIND_UNSPECIFIED: "object",
    common_pb2.CONCEPT_KIND_OBJECT: "object",
    common_pb2.CONCEPT_KIND_STYLE: "style",
    common_pb2.CONCEPT_KIND_PERSON: "person",
    common_pb2.CONCEPT_KIND_BRAND: "brand",
}
SCHEDULERS: Mapping[int, SchedulerName | None] = {
    generate_pb2.SCHEDULER_UNSPECIFIED: None,
    generate_pb2.SCHEDULER_DDIM: SchedulerName.DDIM,
    generate_pb2.SCHEDULER_EULER: SchedulerName.EULER,
    generate_pb2.SCHEDULER_EULER_ANCESTRAL: SchedulerName.EULER_ANCESTRAL,
    generate_pb2.SCHEDULER_DPM_SOLVER_MULTISTEP: SchedulerName.DPM_SOLVER_MULTISTEP,
    generate_pb2.SCHEDULER_UNIPC: SchedulerName.UNIPC,
    generate_pb2.SCHEDULER_PNDM: SchedulerName.PNDM,
}
IMAGE_FORMATS: Mapping[int, ImageFormat] = {
    generate_pb2.IMAGE_FORMAT_UNSPECIFIED: "png",
    generate_pb2.IMAGE_FORMAT_PNG: "png",
    generate_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    generate_pb2.IMAGE_FORMAT_WEBP: "webp",
}
FORMATS: Mapping[int, "Format"] = {
    common_pb2.ADAPTER_FORMAT_UNSPECIFIED: "diffusers",
    common_pb2.ADAPTER_FORMAT_DIFFUSERS: "diffusers",
    common_pb2.ADAPTER_FORMAT_PEFT: "peft",
    common_pb2.ADAPTER_FORMAT_KOHYA: "kohya",
}


def choice(path: str, number: int, table: Mapping[int, T], enum: EnumDescriptor) -> T:
    """Return what a number stands for.

    Raises:
        InvalidRequestError: the server does not know it; names ``path``.
    """
    if number not in table:
        allowed = ", ".join(value.name for value in enum.values)
        raise InvalidRequestError.of(path, f"got {number}, allowed {allowed}")
    return table[number]

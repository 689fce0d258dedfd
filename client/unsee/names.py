"""The names of closed choices, and their numbers on the wire."""

from collections.abc import Mapping
from typing import Literal

from unsee.v1 import common_pb2, generate_pb2

ConceptKind = Literal["object", "style", "person", "brand"]
AdapterFormat = Literal["diffusers", "peft", "kohya"]
ImageFormat = Literal["png", "jpeg", "webp"]
SchedulerName = Literal["ddim", "euler", "euler_ancestral", "dpm_solver_multistep", "unipc", "pndm"]
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

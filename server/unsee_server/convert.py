"""Requests as they come over the wire -> the core's dataclasses; the sole reader of protobuf fields."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from unsee.v1 import adapters_pb2, cancel_pb2, common_pb2, erase_pb2, generate_pb2
from unsee_core.checks import check_adapter_name, check_adapter_ref, check_labels, check_range
from unsee_core.errors import InvalidRequestError
from unsee_core.job import (
    MAX_IMAGES,
    MAX_SEED,
    AdapterRef,
    Concept,
    ConceptKind,
    EraseJob,
    GenerateJob,
    ImageFormat,
    OptionValue,
    SchedulerName,
)
from unsee_core.store import AdapterQuery
from unsee_server.requests import RequestKey
from unsee_server.transfer import Begin, Piece

if TYPE_CHECKING:
    from unsee_core.library import Format  # imports torch, which takes longer than opening the ports may

T = TypeVar("T")
Scalar = bool | int | float | str | bytes
StreamRequest = erase_pb2.EraseRequest | generate_pb2.GenerateRequest

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
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ATTACH_FIELDS = {"request_id", "attach"}


def request_key(request: StreamRequest | cancel_pb2.CancelRequest, caller: str) -> RequestKey:
    """Return the request's key; the id is drawn if it has none.

    Raises:
        InvalidRequestError: the id is malformed, or none is given where one must be.
    """
    given = request.request_id
    is_new = isinstance(request, StreamRequest) and not request.attach
    if not given and is_new:
        return RequestKey(caller, secrets.token_hex(16), is_own=False)
    if not _REQUEST_ID.match(given):
        raise InvalidRequestError.of("request_id", f"got {given[:80]!r}, allowed 1-64 characters of [A-Za-z0-9._-]")
    return RequestKey(caller, given, is_own=True)


def wants_attach(request: StreamRequest) -> bool:
    """Return whether the request asks for earlier work.

    Raises:
        InvalidRequestError: it does, and asks for something else besides.
    """
    if not request.attach:
        return False
    for field, _ in request.ListFields():
        if field.name not in _ATTACH_FIELDS:
            raise InvalidRequestError.of(field.name, "got a value together with attach, allowed request_id alone")
    return True


def field_digests(request: StreamRequest) -> dict[str, str]:
    """Return a digest of every field, by name; of an absent one ""."""
    digests = {field.name: "" for field in request.DESCRIPTOR.fields}
    for field, value in request.ListFields():
        alone = type(request)()
        if isinstance(value, Scalar):
            setattr(alone, field.name, value)
        else:
            getattr(alone, field.name).MergeFrom(value)
        digests[field.name] = hashlib.sha256(alone.SerializeToString(deterministic=True)).hexdigest()
    return digests


def erase_job(request: erase_pb2.EraseRequest, *, default_method: str) -> EraseJob:
    """Return the job that an Erase asks for.

    Raises:
        InvalidRequestError: a field's value is not allowed, or options belong to another method.
    """
    method = request.method or None
    options_of = request.WhichOneof("method_options")
    if options_of not in (None, method or default_method):
        message = f"got options of {options_of}, allowed those of the method {method or default_method!r}"
        raise InvalidRequestError.of(str(options_of), message)
    return EraseJob(
        concept=concept(request, "concept"),
        images=tuple(request.images),
        anchor=request.anchor if request.HasField("anchor") else None,
        retain_prompts=tuple(request.retain_prompts),
        method=method,
        strength=request.strength if request.HasField("strength") else None,
        rank=request.rank if request.HasField("rank") else None,
        steps=request.steps if request.HasField("steps") else None,
        seed=request.seed,
        adapter_name=request.adapter_name or None,
        replace=request.replace,
        labels=dict(request.labels),
        options=_options(getattr(request, options_of)) if options_of else {},
    )


def _options(message: Message) -> dict[str, OptionValue]:
    """Return the options of a method that are set, by name."""
    return {field.name: value for field, value in message.ListFields()}


def concept(parent: erase_pb2.EraseRequest | adapters_pb2.ImportAdapterBegin, path: str) -> Concept:
    """Return the parent's concept; ``path`` names the field in errors.

    Raises:
        InvalidRequestError: it is absent, or not allowed.
    """
    if not parent.HasField("concept"):
        raise InvalidRequestError.of(path, "got nothing, allowed a concept with a name")
    message = parent.concept
    kind = _choice(f"{path}.kind", message.kind, KINDS, common_pb2.ConceptKind.DESCRIPTOR)
    return Concept(name=message.name, synonyms=tuple(message.synonyms), kind=kind)


def generate_job(request: generate_pb2.GenerateRequest) -> GenerateJob:
    """Return the job that a Generate asks for; the seed is drawn if it has none.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    scheduler = _choice("scheduler", request.scheduler, SCHEDULERS, generate_pb2.Scheduler.DESCRIPTOR)
    image_format = _choice("image_format", request.image_format, IMAGE_FORMATS, generate_pb2.ImageFormat.DESCRIPTOR)
    return GenerateJob(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        adapters=tuple(_adapter_ref(ref, f"adapters[{i}]") for i, ref in enumerate(request.adapters)),
        seed=request.seed if request.HasField("seed") else secrets.randbelow(MAX_SEED - MAX_IMAGES + 2),
        steps=request.steps if request.HasField("steps") else 25,
        guidance_scale=request.guidance_scale if request.HasField("guidance_scale") else None,
        width=request.width or None,
        height=request.height or None,
        num_images=request.num_images or 1,
        scheduler=scheduler,
        image_format=image_format,
        no_metadata=request.no_metadata,
    )


def _adapter_ref(ref: generate_pb2.AdapterRef, path: str) -> AdapterRef:
    weight = ref.weight if ref.HasField("weight") else 1.0
    check_adapter_ref(f"{path}.adapter", ref.adapter)
    check_range(f"{path}.weight", weight, -2, 2)
    return AdapterRef(ref.adapter, weight)


def adapter_query(request: adapters_pb2.ListAdaptersRequest) -> AdapterQuery:
    """Return the query that a ListAdapters asks for.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    return AdapterQuery(
        page_size=request.page_size or 100,
        page_token=request.page_token,
        labels=dict(request.labels),
        concept=request.concept,
        method=request.method,
        created_after=_time("created_after", request.created_after) if request.HasField("created_after") else None,
        created_before=_time("created_before", request.created_before) if request.HasField("created_before") else None,
    )


def adapter_of(request: adapters_pb2.GetAdapterRequest | adapters_pb2.DownloadAdapterRequest) -> str:
    """Return the name or digest that is asked for."""
    return request.adapter


def name_of(request: adapters_pb2.DeleteAdapterRequest) -> str:
    """Return the name of the adapter to be deleted."""
    return request.name


def download_format(request: adapters_pb2.DownloadAdapterRequest) -> "Format":
    """Return the layout that is asked for.

    Raises:
        InvalidRequestError: the server does not know it.
    """
    return _choice("format", request.format, FORMATS, common_pb2.AdapterFormat.DESCRIPTOR)


def download_offset(request: adapters_pb2.DownloadAdapterRequest, size: int) -> int:
    """Return the first byte to send.

    Raises:
        InvalidRequestError: it lies beyond the end.
    """
    check_range("offset", request.offset, 0, size)
    return request.offset


def import_begin(request: adapters_pb2.ImportAdapterRequest, *, max_bytes: int) -> Begin:
    """Return how an import begins.

    Args:
        request: the first message of the stream.
        max_bytes: largest adapter that the server takes.

    Raises:
        InvalidRequestError: the stream begins with something else, or a field's value is not allowed.
    """
    if request.WhichOneof("part") != "begin":
        raise InvalidRequestError.of("begin", "got no begin as the first message, allowed a begin and then chunks")
    begin, header = request.begin, request.begin.header
    if header.name:
        check_adapter_name("begin.header.name", header.name)
    check_range("begin.header.size_bytes", header.size_bytes, 1, max_bytes)
    if not _DIGEST.match(header.sha256):
        allowed = "sha256: and 64 lower-case hex digits"
        raise InvalidRequestError.of("begin.header.sha256", f"got {header.sha256[:80]!r}, allowed {allowed}")
    layout = _choice("begin.header.format", header.format, FORMATS, common_pb2.AdapterFormat.DESCRIPTOR)
    labels = dict(begin.labels)
    check_labels(labels)
    return Begin(
        name=header.name or None,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        layout=layout if header.format else None,
        replace=begin.replace,
        labels=labels,
        concept=concept(begin, "begin.concept") if begin.HasField("concept") else None,
    )


def import_piece(request: adapters_pb2.ImportAdapterRequest) -> Piece:
    """Return a piece of an import.

    Raises:
        InvalidRequestError: it is none.
    """
    if request.WhichOneof("part") != "chunk":
        raise InvalidRequestError.of("chunk", "got no chunk after the begin, allowed chunks alone")
    return Piece(offset=request.chunk.offset, data=request.chunk.data, crc32=request.chunk.crc32)


def _choice(path: str, number: int, table: Mapping[int, T], enum: EnumDescriptor) -> T:
    if number not in table:
        allowed = ", ".join(value.name for value in enum.values)
        raise InvalidRequestError.of(path, f"got {number}, allowed {allowed}")
    return table[number]


def _time(path: str, timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise InvalidRequestError.of(path, f"got {timestamp.seconds} s, allowed years 1-9999") from error

"""Requests for work as they come over the wire -> the core's jobs; reads their protobuf fields."""

import hashlib
import re
import secrets

from google.protobuf.message import Message

from unsee.v1 import adapters_pb2, audit_pb2, cancel_pb2, common_pb2, compose_pb2, erase_pb2, generate_pb2
from unsee_core.adapter_schedule import AdapterSchedule, check_schedule
from unsee_core.checks import check_adapter_ref, check_range
from unsee_core.errors import InvalidRequestError
from unsee_core.job import (
    MAX_IMAGES,
    MAX_SEED,
    AdapterRef,
    ComposeJob,
    Concept,
    EraseJob,
    GenerateJob,
    Guard,
    OptionValue,
)
from unsee_server.choices import IMAGE_FORMATS, KINDS, SCHEDULERS, choice
from unsee_server.requests import RequestKey

Scalar = bool | int | float | str | bytes
StreamRequest = (
    erase_pb2.EraseRequest
    | compose_pb2.ComposeAdaptersRequest
    | audit_pb2.AuditAdapterRequest
    | generate_pb2.GenerateRequest
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
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
        adapters_in_force=tuple(request.adapters_in_force),
        report_images=request.report_images,
        keep_images=request.keep_images,
    )


def _options(message: Message) -> dict[str, OptionValue]:
    """Return the options of a method that are set, by name."""
    return {field.name: value for field, value in message.ListFields()}


def concept(
    parent: erase_pb2.EraseRequest | audit_pb2.AuditAdapterRequest | adapters_pb2.ImportAdapterBegin, path: str
) -> Concept:
    """Return the parent's concept; ``path`` names the field in errors.

    Raises:
        InvalidRequestError: it is absent, or not allowed.
    """
    if not parent.HasField("concept"):
        raise InvalidRequestError.of(path, "got nothing, allowed a concept with a name")
    message = parent.concept
    kind = choice(f"{path}.kind", message.kind, KINDS, common_pb2.ConceptKind.DESCRIPTOR)
    return Concept(name=message.name, synonyms=tuple(message.synonyms), kind=kind)


def compose_job(request: compose_pb2.ComposeAdaptersRequest) -> ComposeJob:
    """Return the job that a ComposeAdapters asks for.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    return ComposeJob(
        adapters=tuple(request.adapters),
        retain_prompts=tuple(request.retain_prompts),
        strength=request.strength if request.HasField("strength") else None,
        adapter_name=request.adapter_name or None,
        replace=request.replace,
        labels=dict(request.labels),
    )


def generate_job(request: generate_pb2.GenerateRequest) -> GenerateJob:
    """Return the job that a Generate asks for; the seed is drawn if it has none.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    scheduler = choice("scheduler", request.scheduler, SCHEDULERS, generate_pb2.Scheduler.DESCRIPTOR)
    image_format = choice("image_format", request.image_format, IMAGE_FORMATS, generate_pb2.ImageFormat.DESCRIPTOR)
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
        guard=Guard(request.guard.scale, tuple(request.guard.words)),
    )


def _adapter_ref(ref: generate_pb2.AdapterRef, path: str) -> AdapterRef:
    weight = ref.weight if ref.HasField("weight") else 1.0
    check_adapter_ref(f"{path}.adapter", ref.adapter)
    check_range(f"{path}.weight", weight, -2, 2)
    schedule = _schedule(ref.schedule, f"{path}.schedule") if ref.HasField("schedule") else None
    return AdapterRef(ref.adapter, weight, schedule, ref.gate)


def _schedule(schedule: generate_pb2.AdapterSchedule, path: str) -> AdapterSchedule:
    end = schedule.end if schedule.HasField("end") else 1.0
    check_schedule(path, schedule.start, end, schedule.ramp)
    return AdapterSchedule(schedule.start, end, schedule.ramp)

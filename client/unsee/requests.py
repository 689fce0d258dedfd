"""What callers ask, checked, as messages for the wire; one place for the synchronous and the asyncio client."""

import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Literal, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from unsee.applying import AdapterRef, AdapterSchedule, Guard
from unsee.errors import InvalidArgumentError
from unsee.images import image_bytes
from unsee.names import IMAGE_FORMATS, KINDS, SCHEDULERS, ConceptKind
from unsee.options import AdapterInput, AuditOptions, ComposeOptions, EraseOptions, GenerateOptions, ListOptions
from unsee.v1 import adapters_pb2, audit_pb2, common_pb2, compose_pb2, erase_pb2, generate_pb2

Name = TypeVar("Name", bound=str)
Number = TypeVar("Number")
Item = TypeVar("Item")
Message = TypeVar("Message")
METHOD_OPTIONS: Mapping[str, Any] = {
    "ablation": erase_pb2.AblationOptions,
    "closed_form": erase_pb2.ClosedFormOptions,
    "few_shot_lora": erase_pb2.FewShotLoraOptions,
    "reward": erase_pb2.RewardOptions,
    "sdd": erase_pb2.SddOptions,
    "surgical": erase_pb2.SurgicalOptions,
}


def erase_request(concept: str, options: EraseOptions) -> erase_pb2.EraseRequest:
    """Return the message for an erasure.

    Raises:
        InvalidArgumentError: an image cannot be read, or a value does not fit the wire.
        TypeError: there is no such option.
    """
    check_names(options, EraseOptions)
    images = several("images", options.get("images", ()))
    return wire(
        erase_pb2.EraseRequest,
        concept=wire_concept(concept, options.get("synonyms", ()), options.get("kind", "object")),
        images=[image_bytes(image, f"images[{i}]") for i, image in enumerate(images)],
        anchor=options.get("anchor"),
        retain_prompts=several("retain", options.get("retain", ())),
        method=options.get("method") or "",
        strength=options.get("strength"),
        rank=options.get("rank"),
        steps=options.get("steps"),
        seed=options.get("seed", 0),
        adapter_name=options.get("name") or "",
        replace=options.get("replace", False),
        labels=options.get("labels", {}),
        request_id=options.get("request_id") or str(uuid.uuid4()),
        adapters_in_force=several("adapters_in_force", options.get("adapters_in_force", ())),
        report_images=options.get("report_images", 0),
        keep_images=options.get("keep_images", False),
        **_method_options(options.get("method"), options.get("options") or {}),
    )


def _method_options(method: str | None, options: Mapping[str, int | float | bool]) -> dict[str, Any]:
    """Return the field of the method's options.

    Raises:
        InvalidArgumentError: no method is named, or it has no such option.
    """
    if not options:
        return {}
    if method is None or method not in METHOD_OPTIONS:
        said = "no method" if method is None else f"method {method!r}"
        have = [name for name, message in METHOD_OPTIONS.items() if {*options} <= {*message.DESCRIPTOR.fields_by_name}]
        allowed = f"with method one of {', '.join(have or METHOD_OPTIONS)}"
        raise InvalidArgumentError.of("options", f"got {', '.join(options)} and {said}, allowed {allowed}")
    message = METHOD_OPTIONS[method]
    names = [field.name for field in message.DESCRIPTOR.fields]
    for name in options:
        if name not in names:
            raise InvalidArgumentError.of("options", f"got {name!r}, of {method!r} allowed {', '.join(names)}")
    return {method: wire(message, **options)}


def compose_request(adapters: Iterable[str], options: ComposeOptions) -> compose_pb2.ComposeAdaptersRequest:
    """Return the message for a composition.

    Raises:
        InvalidArgumentError: a value does not fit the wire.
        TypeError: there is no such option.
    """
    check_names(options, ComposeOptions)
    return wire(
        compose_pb2.ComposeAdaptersRequest,
        adapters=several("adapters", adapters),
        retain_prompts=several("retain", options.get("retain", ())),
        strength=options.get("strength"),
        adapter_name=options.get("name") or "",
        replace=options.get("replace", False),
        labels=options.get("labels", {}),
        request_id=options.get("request_id") or str(uuid.uuid4()),
    )


def audit_request(adapter: str, options: AuditOptions) -> audit_pb2.AuditAdapterRequest:
    """Return the message for an audit.

    Raises:
        InvalidArgumentError: an image cannot be read, a value does not fit the wire, or synonyms have no concept.
        TypeError: there is no such option.
    """
    check_names(options, AuditOptions)
    concept, synonyms = options.get("concept"), options.get("synonyms", ())
    if concept is None and synonyms:
        raise InvalidArgumentError.of("synonyms", "got some without a concept, allowed together with one")
    images = several("images", options.get("images", ()))
    budget = options.get("budget")
    return wire(
        audit_pb2.AuditAdapterRequest,
        adapter=adapter,
        images=[image_bytes(image, f"images[{i}]") for i, image in enumerate(images)],
        concept=None if concept is None else wire_concept(concept, synonyms, options.get("kind", "object")),
        attacks=several("attacks", options.get("attacks", ())),
        budget=None if budget is None else wire(audit_pb2.AuditBudget, **vars(budget)),
        guidance_scale=options.get("guidance_scale"),
        samples=options.get("samples"),
        seed=options.get("seed", 0),
        request_id=options.get("request_id") or str(uuid.uuid4()),
    )


def generate_request(prompt: str, options: GenerateOptions) -> generate_pb2.GenerateRequest:
    """Return the message for a generation.

    Raises:
        InvalidArgumentError: a value does not fit the wire.
        TypeError: there is no such option.
    """
    check_names(options, GenerateOptions)
    seed, scheduler = options.get("seed"), options.get("scheduler")
    return wire(
        generate_pb2.GenerateRequest,
        prompt=prompt,
        negative_prompt=options.get("negative_prompt", ""),
        adapters=[_adapter_ref(adapter) for adapter in several("adapters", options.get("adapters", ()))],
        seed=secrets.randbelow(2**32) if seed is None else seed,
        steps=options.get("steps"),
        guidance_scale=options.get("guidance_scale"),
        width=_size(options, "width"),
        height=_size(options, "height"),
        num_images=_at_least_one("num_images", options.get("num_images", 1)),
        scheduler=None if scheduler is None else choice(SCHEDULERS, "scheduler", scheduler),
        image_format=choice(IMAGE_FORMATS, "image_format", options.get("image_format", "png")),
        no_metadata=options.get("no_metadata", False),
        guard=_guard(options.get("guard")),
        request_id=options.get("request_id") or str(uuid.uuid4()),
    )


def _size(options: GenerateOptions, name: Literal["width", "height"]) -> int:
    pixels = options.get(name)
    return 0 if pixels is None else _at_least_one(name, pixels)


def _at_least_one(name: str, value: int) -> int:
    """Return a value of which the wire's 0 says that there is none."""
    if value == 0:
        raise InvalidArgumentError.of(name, "got 0, allowed 1 and more")
    return value


def list_request(options: ListOptions) -> adapters_pb2.ListAdaptersRequest:
    """Return the message for the first page of a list.

    Raises:
        InvalidArgumentError: a value does not fit the wire.
        TypeError: there is no such option.
    """
    check_names(options, ListOptions)
    return wire(
        adapters_pb2.ListAdaptersRequest,
        page_size=options.get("page_size", 0),
        labels=options.get("labels") or {},
        concept=options.get("concept", ""),
        method=options.get("method", ""),
        created_after=_timestamp("created_after", options.get("created_after")),
        created_before=_timestamp("created_before", options.get("created_before")),
    )


def wire_concept(name: str, synonyms: Sequence[str], kind: ConceptKind) -> common_pb2.Concept:
    """Return the message for a concept.

    Raises:
        InvalidArgumentError: a value does not fit the wire.
    """
    numbered = choice(KINDS, "kind", kind)
    return wire(common_pb2.Concept, name=name, synonyms=several("synonyms", synonyms), kind=numbered)


def wire(kind: type[Message], /, **fields: object) -> Message:
    """Return a message; None leaves a field out, and what its type cannot hold is an error that names it.

    Raises:
        InvalidArgumentError: a value does not fit the wire.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for field in kind.DESCRIPTOR.fields:  # type: ignore[attr-defined]  # protobuf's types leave it out
        value = given.get(field.name, False)
        if field.type == FieldDescriptor.TYPE_BOOL and not isinstance(value, bool):  # any number would pass for one
            raise InvalidArgumentError.of(field.name, f"got {str(value)[:80]}, allowed true, false")
    try:
        return kind(**given)
    except (TypeError, ValueError):
        for name, value in given.items():  # find out which one it was
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError.of(name, f"got {str(value)[:80]!r}; {error}") from error
        raise


def choice(numbers: Mapping[Name, Number], field: str, name: Name) -> Number:
    """Return the number of a name on the wire.

    Raises:
        InvalidArgumentError: there is no such name.
    """
    if name not in numbers:
        raise InvalidArgumentError.of(field, f"got {name!r}, allowed {', '.join(numbers)}")
    return numbers[name]


def several(field: str, values: Iterable[Item]) -> Iterable[Item]:
    """Return the values; a lone string would pass for its letters.

    Raises:
        InvalidArgumentError: it is a single one.
    """
    if isinstance(values, str | bytes | PathLike) or not isinstance(values, Iterable):
        raise InvalidArgumentError.of(field, f"got one {type(values).__name__}, allowed a list of them")
    return values


def _adapter_ref(adapter: AdapterInput) -> generate_pb2.AdapterRef:
    match adapter:
        case str(name):
            return wire(generate_pb2.AdapterRef, adapter=name)
        case (name, weight):
            return wire(generate_pb2.AdapterRef, adapter=name, weight=weight)
        case AdapterRef(name, weight, schedule, gate):
            given = _schedule(schedule)
            return wire(generate_pb2.AdapterRef, adapter=name, weight=weight, schedule=given, gate=gate)
    allowed = "a name, a digest, a pair of one and a weight, or an AdapterRef"
    raise InvalidArgumentError.of("adapters", f"got {adapter!r}, allowed {allowed}")


def _schedule(schedule: AdapterSchedule | None) -> generate_pb2.AdapterSchedule | None:
    return None if schedule is None else wire(generate_pb2.AdapterSchedule, **vars(schedule))


def _guard(guard: Guard | float | None) -> generate_pb2.Guard | None:
    if guard is None:
        return None
    scale, words = (guard.scale, guard.words) if isinstance(guard, Guard) else (guard, ())
    return wire(generate_pb2.Guard, scale=scale, words=several("guard.words", words))


def check_names(options: Mapping[str, Any], allowed: type) -> None:
    """Raise TypeError if there is an option that is not allowed."""
    unknown = options.keys() - allowed.__annotations__.keys()
    if unknown:
        raise TypeError(f"got the option {min(unknown)!r}, allowed {', '.join(allowed.__annotations__)}")


def _timestamp(field: str, when: datetime | None) -> Timestamp | None:
    if when is None:
        return None
    if when.tzinfo is None:
        raise InvalidArgumentError.of(field, f"got {when.isoformat()}, allowed a time with a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp

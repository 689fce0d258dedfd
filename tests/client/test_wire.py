"""Every field of the wire has its place in the SDK, both ways."""

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import unsee
from unsee import adapters, audit_reading, events, info, names
from unsee.options import AuditOptions, ComposeOptions, EraseOptions, GenerateOptions, ImportOptions, ListOptions
from unsee.requests import (
    METHOD_OPTIONS,
    audit_request,
    compose_request,
    erase_request,
    generate_request,
    list_request,
)
from unsee.transfer import upload
from unsee.v1 import audit_pb2, common_pb2, erase_pb2, generate_pb2, info_pb2

ERASE: EraseOptions = {
    "images": [b"png"],
    "synonyms": ["kitten"],
    "kind": "style",
    "anchor": "",
    "retain": ["a dog"],
    "method": "few_shot_lora",
    "strength": 0.5,
    "rank": 4,
    "steps": 9,
    "seed": 0,
    "name": "no-cat",
    "replace": True,
    "labels": {"team": "legal"},
    "options": {"layers": 2, "train_final_norm": True},
    "adapters_in_force": ["no-dog"],
    "report_images": 2,
    "keep_images": True,
    "request_id": "mine",
}
GENERATE: GenerateOptions = {
    "negative_prompt": "blur",
    "adapters": [unsee.AdapterRef("no-cat", 0.0, unsee.AdapterSchedule(0.25, 0.75, 0.125), gate=True)],
    "guard": unsee.Guard(2.0, ("cat",)),
    "seed": 0,
    "steps": 9,
    "guidance_scale": 0.0,
    "width": 64,
    "height": 64,
    "num_images": 2,
    "scheduler": "pndm",
    "image_format": "webp",
    "no_metadata": True,
    "request_id": "mine",
}


def test_every_condition_of_a_list_reaches_the_wire() -> None:
    options: ListOptions = {
        "labels": {"a": "b"},
        "concept": "cat",
        "method": "sdd",
        "created_after": datetime.fromtimestamp(1, UTC),
        "created_before": datetime.fromtimestamp(2, UTC),
        "page_size": 3,
    }
    assert options.keys() == ListOptions.__annotations__.keys()
    assert list(unset_fields(list_request(options))) == ["page_token"]


def test_an_option_that_is_not_there_is_refused() -> None:
    for call in (
        lambda: unsee.AsyncClient("127.0.0.1:1", tokn="x"),  # type: ignore[call-arg]
        lambda: upload(b"x", {"nam": "x"}),  # type: ignore[typeddict-unknown-key]
        lambda: list_request({"methd": "x"}),  # type: ignore[typeddict-unknown-key]
    ):
        with pytest.raises(TypeError, match="allowed"):
            call()


def unset_fields(message: Message, path: str = "") -> Iterator[str]:
    """Yield the path of each field that a message leaves out."""
    given = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        if field.name not in given:
            yield path + field.name
        elif field.message_type and not is_map(field) and not field.message_type.full_name.startswith("google."):
            values = given[field.name] if field.is_repeated else [given[field.name]]
            for value in values:
                yield from unset_fields(value, f"{path}{field.name}.")


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return bool(field.message_type) and field.message_type.GetOptions().map_entry


def test_every_option_of_an_erasure_reaches_the_wire() -> None:
    assert ERASE.keys() == EraseOptions.__annotations__.keys()
    others = METHOD_OPTIONS.keys() - {"few_shot_lora"}
    assert set(unset_fields(erase_request("cat", ERASE))) == {"attach", *others}


def test_every_method_of_the_wire_has_its_options() -> None:
    fields = erase_pb2.EraseRequest.DESCRIPTOR.oneofs_by_name["method_options"].fields
    assert {field.name: field.message_type.name for field in fields} == {
        name: message.DESCRIPTOR.name for name, message in METHOD_OPTIONS.items()
    }


def test_every_option_of_a_composition_reaches_the_wire() -> None:
    options: ComposeOptions = {
        "retain": ["a dog"],
        "strength": 0.5,
        "name": "both",
        "replace": True,
        "labels": {"a": "b"},
        "request_id": "mine",
    }
    assert options.keys() == ComposeOptions.__annotations__.keys()
    assert list(unset_fields(compose_request(["no-cat", "no-dog"], options))) == ["attach"]


def test_every_option_of_an_audit_reaches_the_wire() -> None:
    options: AuditOptions = {
        "images": [b"png"],
        "concept": "cat",
        "synonyms": ["kitten"],
        "kind": "style",
        "attacks": ["wordings"],
        "budget": unsee.AuditBudget((1, 3), *range(1, 9)),
        "guidance_scale": 0.0,
        "samples": 0,
        "seed": 1,
        "request_id": "mine",
    }
    assert options.keys() == AuditOptions.__annotations__.keys()
    assert list(unset_fields(audit_request("no-cat", options))) == ["attach"]


def test_what_an_audit_leaves_out_is_left_to_the_server() -> None:
    request = audit_request("no-cat", {"budget": unsee.AuditBudget(pictures=3), "request_id": "mine"})
    wanted = {"adapter": "no-cat", "request_id": "mine", "budget": audit_pb2.AuditBudget(pictures=3)}
    assert request == audit_pb2.AuditAdapterRequest(**wanted)
    with pytest.raises(unsee.InvalidArgumentError, match="synonyms: got some without a concept"):
        audit_request("no-cat", {"synonyms": ["kitten"]})


def test_every_option_of_a_generation_reaches_the_wire() -> None:
    assert GENERATE.keys() == GenerateOptions.__annotations__.keys()
    assert list(unset_fields(generate_request("a cat", GENERATE))) == ["attach"]


def test_every_argument_of_an_import_reaches_the_wire() -> None:
    options: ImportOptions = {
        "name": "a",
        "replace": True,
        "labels": {"a": "b"},
        "concept": "cat",
        "synonyms": ["kitten"],
        "kind": "brand",
    }
    assert options.keys() == ImportOptions.__annotations__.keys()
    begin, chunk = upload(b"x", options)
    assert list(unset_fields(begin)) == ["begin.header.format", "chunk"]  # the server tells the layout from the keys
    assert list(unset_fields(chunk)) == ["begin", "chunk.offset"]


def filled(message: Any, number: int = 0) -> Any:
    """Fill each field of a message with a value that is not its default, and return the message."""
    for field in message.DESCRIPTOR.fields:
        number += 1
        if is_map(field):
            kind = field.message_type.fields_by_name["value"]
            entries = getattr(message, field.name)
            if kind.message_type:
                filled(entries["key"], number)
            else:
                entries["key"] = plain(kind, number)
        elif field.message_type:
            value = getattr(message, field.name)
            filled(value.add() if field.is_repeated else value, number)
        elif field.is_repeated:
            getattr(message, field.name).append(plain(field, number))
        else:
            setattr(message, field.name, plain(field, number))
    return message


def plain(field: FieldDescriptor, number: int) -> Any:
    """Return a value of a field's type that is not its default."""
    values: Mapping[int, Any] = {
        FieldDescriptor.CPPTYPE_STRING: b"bytes" if field.type == FieldDescriptor.TYPE_BYTES else f"text {number}",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_ENUM: 2,
        FieldDescriptor.CPPTYPE_DOUBLE: number + 0.5,
    }
    return values.get(field.cpp_type, number)


def defaults(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each attribute that has its type's empty value."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from defaults(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from defaults(item, f"{path}[{key}]")
        if not value:
            yield path
    elif not value:
        yield path


READ: list[tuple[Any, Any, set[str]]] = [
    (common_pb2.Adapter, adapters.adapter_info, set()),
    (erase_pb2.EraseProgress, events.erase_progress, set()),
    (common_pb2.ReportImage, lambda m: events.report_image(m), {"png"}),
    (generate_pb2.GenerateProgress, events.generate_progress, set()),
    (generate_pb2.GenerateImage, events.generated_image, set()),
    (generate_pb2.GenerateCompleted, lambda m: events.generate_result(m, ("image",)), {"scheduler_class"}),  # type: ignore[arg-type]
    (info_pb2.GetServerInfoResponse, info.server_info, set()),
    (audit_pb2.AuditProgress, audit_reading.audit_progress, set()),
    (audit_pb2.AuditPicture, audit_reading.audit_picture, set()),
    (audit_pb2.AuditRow, audit_reading.audit_row, set()),
    (audit_pb2.AuditReport, audit_reading.audit_report, set()),
]


@pytest.mark.parametrize(("kind", "read", "merged"), READ, ids=[kind.__name__ for kind, _, _ in READ])
def test_every_field_of_an_answer_is_read(kind: Any, read: Any, merged: set[str]) -> None:
    answer = read(filled(kind()))
    assert list(defaults(answer)) == []
    assert read(kind()) != answer
    fields = {field.name for field in kind.DESCRIPTOR.fields} - merged
    renamed = {"eta": "eta_s", "timings": "seconds", "duration": "seconds"}
    attributes = {field.name for field in dataclasses.fields(answer)} - {"images"}
    attributes -= {"data"} if "png" in merged else set()
    assert {renamed.get(name, name) for name in fields} == attributes


@pytest.mark.parametrize(
    ("message", "dataclass"),
    [
        (common_pb2.Concept, adapters.Concept),
        (common_pb2.Drift, adapters.Drift),
        (common_pb2.Integrity, adapters.Integrity),
        (common_pb2.BaseModel, adapters.BaseModel),
        (generate_pb2.ResolvedAdapter, unsee.ResolvedAdapter),
        (generate_pb2.AdapterSchedule, unsee.AdapterSchedule),
        (generate_pb2.Guard, unsee.Guard),
        (audit_pb2.AuditOutcome, unsee.AuditOutcome),
        (audit_pb2.AuditBudget, unsee.AuditBudget),
        (info_pb2.ModelInfo, info.ModelInfo),
        (info_pb2.Limits, info.Limits),
        (info_pb2.MethodInfo, info.MethodInfo),
    ],
)
def test_a_part_of_an_answer_has_the_same_fields_on_both_sides(message: Any, dataclass: Any) -> None:
    assert [field.name for field in message.DESCRIPTOR.fields] == [
        field.name for field in dataclasses.fields(dataclass)
    ]


@pytest.mark.parametrize(
    ("names_of", "enum"),
    [(audit_reading.SIDES, audit_pb2.AuditSide), (audit_reading.STAGES, audit_pb2.AuditStage)],
)
def test_every_number_of_an_answer_has_its_name(names_of: Mapping[int, str], enum: Any) -> None:
    assert sorted(names_of) == [number for number in enum.values() if number]


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (names.KINDS, common_pb2.ConceptKind),
        (names.FORMATS, common_pb2.AdapterFormat),
        (names.IMAGE_FORMATS, generate_pb2.ImageFormat),
        (names.SCHEDULERS, generate_pb2.Scheduler),
    ],
)
def test_every_value_of_an_enum_has_its_name(table: Mapping[str, int], enum: Any) -> None:
    assert sorted(table.values()) == [number for number in enum.values() if number]


def test_answers_without_optional_parts_are_read_as_none() -> None:
    assert adapters.adapter_info(common_pb2.Adapter()).report is None
    assert events.erase_progress(erase_pb2.EraseProgress()).eta_s is None
    report = adapters.adapter_info(common_pb2.Adapter(report=common_pb2.Report())).report
    assert report is not None
    optional = ("image_loss_before", "image_loss_after", "reference_image_loss", "erase_ratio", "worst_erase_ratio")
    assert [getattr(report, name) for name in optional] == [None] * 5
    assert report.integrity is None
    drawn = common_pb2.Report(integrity=common_pb2.Integrity(mean_lpips=0.0))
    integrity = adapters.adapter_info(common_pb2.Adapter(report=drawn)).report.integrity
    assert (integrity.mean_lpips, integrity.max_lpips) == (0.0, None)


def test_a_phase_of_a_later_server_counts_as_training() -> None:
    assert events.erase_progress(erase_pb2.EraseProgress(phase=99)).phase == "train"  # type: ignore[arg-type]

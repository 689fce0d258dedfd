"""Every protobuf field is read, or written; a field that is added and forgotten fails here."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.server.world import erase_request, generate_request
from unsee.v1 import adapters_pb2, audit_pb2, common_pb2, compose_pb2, erase_pb2, generate_pb2
from unsee_core import answers, job
from unsee_core.adapter_schedule import AdapterSchedule
from unsee_core.audit import answers as audits
from unsee_core.audit.job import ATTACKS, AuditBudget, AuditJob
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterPage
from unsee_server import choices, convert, convert_adapters, convert_audit, replies, replies_audit
from unsee_server.transfer import Piece

DIGEST = "sha256:" + "a" * 64
# A value of each field that differs from its default and from what the requests below hold.
VALUES: dict[str, Any] = {
    "concept": common_pb2.Concept(name="rose"),
    "concept.name": "rose",
    "concept.synonyms": ["kitten"],
    "concept.kind": common_pb2.CONCEPT_KIND_STYLE,
    "images": [b"picture"],
    "anchor": "",
    "adapters_in_force": ["no-dog"],
    "retain_prompts": ["a dog"],
    "method": "few_shot_lora",
    "strength": 0.5,
    "rank": 3,
    "steps": 9,
    "seed": 11,
    "adapter_name": "no-cat",
    "replace": True,
    "labels": {"a": "b"},
    "report_images": 3,
    "keep_images": True,
    "few_shot_lora": erase_pb2.FewShotLoraOptions(layers=2),
    "few_shot_lora.layers": 2,
    "few_shot_lora.train_final_norm": True,
    "closed_form": erase_pb2.ClosedFormOptions(layers=2),
    "ablation": erase_pb2.AblationOptions(layers=2),
    "sdd": erase_pb2.SddOptions(layers=2),
    "surgical": erase_pb2.SurgicalOptions(layers=2),
    "reward": erase_pb2.RewardOptions(layers=2),
    **{f"{method}.layers": 2 for method in ("closed_form", "ablation", "sdd", "surgical", "reward")},
    **{f"{method}.drawing_steps": 4 for method in ("ablation", "sdd", "surgical", "reward")},
    "closed_form.image_words": 1,
    "closed_form.harden": 1,
    "closed_form.random_prefixes": True,
    "closed_form.beyond": True,
    "closed_form.stand_in": False,
    "closed_form.strict": True,
    "ablation.pictures": 4,
    "surgical.pictures": 4,
    "sdd.ema_decay": 0.5,
    "prompt": "a rose",
    "negative_prompt": "a cat",
    "adapters": [generate_pb2.AdapterRef(adapter="no-cat")],
    "ComposeAdaptersRequest.adapters": ["no-fox"],
    "adapters.adapter": "no-rose",
    "adapters.weight": 0.25,
    "adapters.schedule": generate_pb2.AdapterSchedule(start=0.5),
    "adapters.gate": True,
    "guard": generate_pb2.Guard(scale=2, words=["cat"]),
    "guard.scale": 2.0,
    "guard.words": ["cat"],
    "guidance_scale": 0.0,
    "width": 64,
    "height": 64,
    "num_images": 3,
    "scheduler": generate_pb2.SCHEDULER_UNIPC,
    "image_format": generate_pb2.IMAGE_FORMAT_WEBP,
    "no_metadata": True,
    "adapter": "no-rose",
    "attacks": ["wordings"],
    "budget": audit_pb2.AuditBudget(pictures=3),
    "budget.inversion_tokens": [3],
    **{f"budget.{field.name}": 7 for field in audit_pb2.AuditBudget.DESCRIPTOR.fields[1:]},
    "samples": 0,
    "page_size": 7,
    "page_token": "e30=",
    "created_after": Timestamp(seconds=1),
    "created_before": Timestamp(seconds=2),
    "header.name": "no-cat",
    "header.size_bytes": 6,
    "header.sha256": "sha256:" + "b" * 64,
    "header.format": common_pb2.ADAPTER_FORMAT_KOHYA,
}
REQUEST_FIELDS = {"request_id", "attach"}  # read by `request_key` and `wants_attach`, tested below


def changes(message: Message, prefix: str = "") -> Iterator[tuple[str, Callable[[Message], None]]]:
    """Yield each field of the message and, below it, of its messages, with what changes it."""
    for field in message.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        if path in REQUEST_FIELDS:
            continue
        if path in VALUES or not is_plain_message(field):
            yield path, lambda m, f=field, p=path: change(m, f, value_of(f, p))
        if is_plain_message(field):
            inner = getattr(message, field.name)
            for below, apply in changes(inner, f"{path}."):
                yield below, lambda m, f=field, a=apply: a(getattr(m, f.name))


def value_of(field: FieldDescriptor, path: str) -> Any:
    """Return another value; the message's own where fields of a name have two types."""
    return VALUES.get(f"{field.containing_type.name}.{path}", VALUES[path])


def is_plain_message(field: FieldDescriptor) -> bool:
    """Return whether it is one message of ours: not repeated, no map, no time."""
    return field.message_type is not None and not field.is_repeated and field.message_type.file.package == "unsee.v1"


def change(message: Message, field: FieldDescriptor, value: Any) -> None:
    message.ClearField(field.name)
    if isinstance(value, bool | int | float | str | bytes):
        setattr(message, field.name, value)
    else:
        getattr(message, field.name).MergeFrom(value) if not isinstance(value, list | dict) else fill(
            getattr(message, field.name), value
        )


def fill(container: Any, value: list[Any] | dict[str, str]) -> None:
    container.update(value) if isinstance(value, dict) else container.extend(value)


def list_request() -> adapters_pb2.ListAdaptersRequest:
    return adapters_pb2.ListAdaptersRequest()


def query(request: adapters_pb2.ListAdaptersRequest) -> object:
    """Return the query, or what is wrong with the page's token: that it was read is all that matters here."""
    try:
        return convert_adapters.adapter_query(request)
    except convert.InvalidRequestError as error:
        return str(error)


def drawing(request: generate_pb2.GenerateRequest) -> object:
    """Return the job, or what is wrong with it: words to guard against are refused without a scale."""
    try:
        return convert.generate_job(request)
    except convert.InvalidRequestError as error:
        return str(error)


def compose_request() -> compose_pb2.ComposeAdaptersRequest:
    return compose_pb2.ComposeAdaptersRequest(adapters=["no-cat", "no-dog"])


def composing(request: compose_pb2.ComposeAdaptersRequest) -> object:
    """Return the job, or what is wrong with it: one adapter is too few."""
    try:
        return convert.compose_job(request)
    except convert.InvalidRequestError as error:
        return str(error)


def audit_request() -> audit_pb2.AuditAdapterRequest:
    return audit_pb2.AuditAdapterRequest(adapter="no-cat")


def auditing(request: audit_pb2.AuditAdapterRequest) -> object:
    """Return the job, or what is wrong with it: a concept needs a name."""
    try:
        return convert_audit.audit_job(request)
    except convert.InvalidRequestError as error:
        return str(error)


def import_request() -> adapters_pb2.ImportAdapterBegin:
    header = adapters_pb2.AdapterHeader(size_bytes=5, sha256=DIGEST)
    return adapters_pb2.ImportAdapterBegin(header=header, concept=common_pb2.Concept(name="cat"))


def begin(message: adapters_pb2.ImportAdapterBegin) -> object:
    return convert_adapters.import_begin(adapters_pb2.ImportAdapterRequest(begin=message), max_bytes=100)


def erasing() -> erase_pb2.EraseRequest:
    """Return an erasure that leaves the method to the server."""
    return erase_request(method="")


def method_of(request: erase_pb2.EraseRequest) -> str:
    return request.WhichOneof("method_options") or "few_shot_lora"


def erased(request: erase_pb2.EraseRequest) -> object:
    """Return the job, or what is wrong with it: pictures are kept only where some are drawn."""
    try:
        return convert.erase_job(request, default_method=method_of(request))
    except convert.InvalidRequestError as error:
        return str(error)


CASES: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (erasing, erased),
    (compose_request, composing),
    (audit_request, auditing),
    (generate_request, drawing),
    (list_request, query),
    (import_request, begin),
]


@pytest.mark.parametrize(
    ("make", "read", "path"),
    [(make, read, path) for make, read in CASES for path, _ in changes(make()) if path != "concept"],
)
def test_every_field_of_a_request_is_read(make: Callable[[], Any], read: Callable[[Any], object], path: str) -> None:
    changed = make()
    dict(changes(changed))[path](changed)
    assert read(changed) != read(make())


def test_the_attacks_that_the_wire_names_are_those_of_the_core() -> None:
    proto = (Path(__file__).parents[2] / "protos" / "unsee" / "v1" / "audit.proto").read_text(encoding="utf-8")
    comment = proto.split("// Attacks by name")[1].split("repeated string attacks")[0]
    assert tuple(re.findall(r'"(\w+)"', comment)) == ATTACKS


def test_what_an_audit_leaves_out_is_the_default_of_the_core() -> None:
    assert convert_audit.audit_job(audit_request()) == AuditJob("no-cat")


@pytest.mark.parametrize("path", [field.name for field in generate_pb2.AdapterRef.DESCRIPTOR.fields])
def test_every_field_of_an_adapter_to_apply_is_read(path: str) -> None:
    refs = [generate_pb2.AdapterRef(adapter="no-cat"), generate_pb2.AdapterRef(adapter="no-cat")]
    dict(changes(refs[1], "adapters."))[f"adapters.{path}"](refs[1])
    first, second = (convert.generate_job(generate_request(adapters=[ref])).adapters for ref in refs)
    assert first != second


def test_every_field_of_a_chunk_is_read() -> None:
    chunk = adapters_pb2.AdapterChunk(offset=1, data=b"x", crc32=2)
    piece = convert_adapters.import_piece(adapters_pb2.ImportAdapterRequest(chunk=chunk))
    assert piece == Piece(1, b"x", 2)
    assert len(chunk.DESCRIPTOR.fields) == len(dataclasses.fields(Piece))


@pytest.mark.parametrize("make", [erasing, compose_request, audit_request, generate_request])
def test_the_digest_of_every_field_tells_its_value(make: Callable[[], Any]) -> None:
    for path, apply in changes(make()):
        name = path.split(".")[0]
        changed = make()
        apply(changed)
        before, after = convert.field_digests(make()), convert.field_digests(changed)
        assert {key for key in before if before[key] != after[key]} == {name}


def test_an_optional_field_that_is_absent_differs_from_a_zero() -> None:
    assert convert.erase_job(erase_request(anchor=""), default_method="x").anchor == ""
    assert convert.erase_job(erase_request(), default_method="x").anchor is None
    assert convert.generate_job(generate_request(guidance_scale=0)).guidance_scale == 0
    assert convert.generate_job(generate_request()).guidance_scale is None


def test_every_choice_of_the_wire_has_a_meaning() -> None:
    for table, enum in (
        (choices.KINDS, common_pb2.ConceptKind),
        (choices.FORMATS, common_pb2.AdapterFormat),
        (choices.SCHEDULERS, generate_pb2.Scheduler),
        (choices.IMAGE_FORMATS, generate_pb2.ImageFormat),
    ):
        assert set(table) == set(enum.values())
    assert set(choices.SCHEDULERS.values()) == {None, *job.SchedulerName}
    assert set(replies_audit.SIDES.values()) | {0} == set(audit_pb2.AuditSide.values())
    assert set(replies_audit.STAGES.values()) | {0} == set(audit_pb2.AuditStage.values())
    assert set(replies.PHASES.values()) | {0} == set(erase_pb2.ErasePhase.values())


DRIFT = answers.Drift(p50=1.0, p95=2.0, max=3.0, worst_prompt="a dog", prompts=4)
MANIFEST = answers.Manifest(
    name="no-cat",
    digest=DIGEST,
    size_bytes=5,
    concept=job.Concept("cat", ("kitten",), "style"),
    method="few_shot_lora",
    rank=4,
    strength=0.5,
    steps=6,
    seed=7,
    labels={"a": "b"},
    create_time=datetime(2026, 1, 2, tzinfo=UTC),
    base_model=answers.BaseModel("emoji", "t", "e", "u"),
    has_final_norm=True,
    settings={"stands_in": "cake"},
    report=answers.Report(
        DRIFT,
        DRIFT,
        1.0,
        2.0,
        3.0,
        {"train": 4.0},
        0.25,
        0.5,
        {"plural": 0.75},
        (answers.NamedDrift("dog", 0.125),),
        5.0,
        ("a warning",),
        {"cat": 0.0625},
        answers.Integrity(0.5, 0.75, "a dog", 0.25, 0.125, 1.5, 0.0625, 3, 0.375, 0.4375, 0.875),
    ),
    base_mismatch=True,
    concepts=(job.Concept("dog", ("hound",), "brand"),),
    images=(answers.KeptImage("a dog", 1, True, True, DIGEST),),
)
SCHEDULE = AdapterSchedule(0.25, 0.75, 0.125)
DONE = answers.GenerateCompleted(
    seeds=(1,),
    model_digest="m",
    scheduler_class="EulerDiscreteScheduler",
    dtype="float32",
    adapters=(answers.ResolvedAdapter("no-cat", DIGEST, 0.5, base_mismatch=True, schedule=SCHEDULE, gate=True),),
    prompt_cut_off="p",
    negative_prompt_cut_off="n",
    steps=2,
    guidance_scale=3.0,
    width=4,
    height=5,
    timings=answers.GenerateTimings(1.0, 2.0, 3.0, 4.0, 5.0),
    guard=job.Guard(2.0, ("cat",)),
)
BROUGHT_BACK = audits.Outcome(20, 19, 18, 0.5, 0.25, 0.125, "a prompt")
ROW = audits.AuditRow("wordings", BROUGHT_BACK, BROUGHT_BACK, BROUGHT_BACK, 2.0)
AUDITED = audits.AuditReport(
    adapter="no-cat",
    digest=DIGEST,
    concept=job.Concept("cat", ("kitten",), "style"),
    control_word="dog",
    threshold=0.1,
    judged_by="model",
    given_images=3,
    budget=AuditBudget(),
    guidance_scale=4.0,
    seed=5,
    rows=(ROW,),
    seconds=6.0,
    model_digest="m",
    create_time=datetime(2026, 1, 2, tzinfo=UTC),
)
EVENTS: list[Message] = [
    replies_audit.audit_response(answers.Queued(3), "r").queued,
    replies_audit.audit_response(audits.AuditProgress("name", "control", "draw", 1, 2, 0.5, 3, 4), "r").progress,
    replies_audit.audit_response(audits.AuditPicture("name", "adapter", 1, 2, True, 0.5, b"png"), "r").picture,
    replies_audit.audit_response(ROW, "r").row,
    replies_audit.audit_response(audits.AuditCompleted(AUDITED, is_kept=True), "r").completed,
    replies.erase_response(answers.Queued(3), "r").queued,
    replies.erase_response(answers.EraseProgress("train", 1, 2, {"forget": 0.5}, 3.0), "r").progress,
    replies.erase_response(answers.EraseCompleted(MANIFEST), "r").completed,
    replies.erase_response(answers.ReportImage("a dog", 1, True, True, b"png"), "r").image,
    replies.compose_response(answers.Queued(3), "r").queued,
    replies.compose_response(answers.EraseCompleted(MANIFEST), "r").completed,
    replies.generate_response(answers.Queued(3), "r").queued,
    replies.generate_response(answers.GenerateProgress(1, 2, 3.0), "r").progress,
    replies.generate_response(answers.ImageReady(1, 2, "webp", 3, 4, b"data"), "r").image,
    replies.generate_response(DONE, "r").completed,
    replies.adapters_page(AdapterPage((MANIFEST,), "next")),
    replies.download_header("no-cat", b"data", "kohya").header,
    replies.download_chunk(Piece(1, b"x", 2)).chunk,
    replies.limits(job.Limits()),
]


def unset(message: Message, path: str) -> Iterator[str]:
    """Yield the fields, at any depth, that hold their default."""
    present = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        if field.name not in present:
            yield f"{path}.{field.name}"
        elif field.message_type is not None and field.message_type.file.package == "unsee.v1":
            value = present[field.name]
            if not field.message_type.GetOptions().map_entry:
                for inner in value if field.is_repeated else [value]:
                    yield from unset(inner, f"{path}.{field.name}")


@pytest.mark.parametrize("message", EVENTS, ids=lambda message: type(message).__name__)
def test_every_field_of_a_reply_is_written(message: Message) -> None:
    assert not list(unset(message, type(message).__name__))


def test_every_field_of_the_model_is_written(tiny_pipeline: Pipeline) -> None:
    assert not list(unset(replies.model_info(tiny_pipeline), "ModelInfo"))


def test_every_value_of_the_core_reaches_the_wire() -> None:
    """Other values in the core's dataclasses give other messages; audits and pictures have calls of their own."""
    for field in (field for field in dataclasses.fields(MANIFEST) if field.name not in {"audits", "images"}):
        other = dataclasses.replace(MANIFEST, **{field.name: OTHER.get(field.name)})
        assert replies.adapter(other) != replies.adapter(MANIFEST), field.name
    for field in dataclasses.fields(DONE):
        other = dataclasses.replace(DONE, **{field.name: OTHER[field.name]})
        assert replies.generate_response(other, "r") != replies.generate_response(DONE, "r"), field.name


OTHER: dict[str, Any] = {
    "name": "x",
    "digest": "x",
    "size_bytes": 1,
    "method": "x",
    "rank": 1,
    "strength": 1.0,
    "steps": 1,
    "seed": 1,
    "labels": {},
    "create_time": datetime(2027, 1, 2, tzinfo=UTC),
    "base_model": answers.BaseModel("x", "x", "x", "x"),
    "has_final_norm": False,
    "settings": {},
    "base_mismatch": False,
    "concepts": (),
    "seeds": (2,),
    "model_digest": "x",
    "scheduler_class": "x",
    "dtype": "x",
    "adapters": (),
    "prompt_cut_off": "x",
    "negative_prompt_cut_off": "x",
    "guidance_scale": 1.0,
    "width": 1,
    "height": 1,
    "timings": answers.GenerateTimings(0.0, 0.0, 0.0, 0.0, 0.0),
    "guard": job.Guard(1.0, ("cat",)),
}

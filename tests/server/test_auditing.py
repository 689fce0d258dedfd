"""What AuditAdapter answers: its events, its refusals, that it is attached to, cancelled, and kept with the adapter."""

from io import BytesIO

import grpc
import pytest
from PIL import Image

from tests.server.world import World, is_idle, picture, refused, until
from unsee.v1 import adapters_pb2, audit_pb2, cancel_pb2, common_pb2, generate_pb2

SMALL = audit_pb2.AuditBudget(
    inversion_tokens=[1],
    inversion_steps=2,
    inversion_batch=1,
    prompt_tokens=1,
    prompt_steps=2,
    noise_steps=1,
    restarts=1,
    pictures=2,
    drawing_steps=4,
)


@pytest.fixture
async def erased(world: World) -> World:
    """A server that holds no-cat."""
    await world.erase(adapter_name="no-cat")
    return world


def request(**fields: object) -> audit_pb2.AuditAdapterRequest:
    defaults = {"adapter": "no-cat", "attacks": ["reconstruction", "learned_tokens"], "budget": SMALL, "samples": 1}
    return audit_pb2.AuditAdapterRequest(**(defaults | fields))


async def test_an_audit_is_queued_progresses_shows_pictures_and_rows_and_completes(erased: World) -> None:
    events = [e async for e in erased.stub.AuditAdapter(request(request_id="r", images=[picture()]))]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("queued", "completed")
    assert set(kinds[1:-1]) == {"progress", "picture", "row"}
    assert events[0].queued.request_id == "r"
    rows = [event.row for event in events if event.WhichOneof("event") == "row"]
    assert [row.attack for row in rows] == ["name", "reconstruction", "learned_tokens_1"]
    pictures = [event.picture for event in events if event.WhichOneof("event") == "picture"]
    assert [p.side for p in pictures] == [1, 2, 3] * 3
    assert Image.open(BytesIO(pictures[0].data)).format == "PNG"
    completed = events[-1].completed
    assert completed.is_kept
    assert list(completed.report.rows) == rows
    assert completed.report.concept.name == "cat"
    assert completed.report.given_images == 1
    assert completed.report.budget == SMALL
    kept = await erased.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="no-cat"))
    assert list(kept.audits) == [completed.report]


async def test_the_same_request_again_and_attaching_are_answered_with_the_earlier_result(erased: World) -> None:
    first = [e async for e in erased.stub.AuditAdapter(request(request_id="r"))]
    for again in (request(request_id="r"), audit_pb2.AuditAdapterRequest(request_id="r", attach=True)):
        events = [e async for e in erased.stub.AuditAdapter(again)]
        assert events[-1] == first[-1]
        shown = [e.picture for e in events if e.WhichOneof("event") == "picture"]
        assert len(shown) == 9
    changed = await refused(erased.stub.AuditAdapter(request(request_id="r", seed=1)))
    assert changed.fields == ["seed"]


async def test_pictures_are_drawn_while_an_audit_runs_and_it_is_cancelled_by_its_id(erased: World) -> None:
    long = audit_pb2.AuditBudget(inversion_steps=5000, restarts=16)
    call = erased.stub.AuditAdapter(request(request_id="r", budget=long, attacks=["learned_tokens"]))
    await anext(aiter(call))
    drawn = [e async for e in erased.stub.Generate(generate_pb2.GenerateRequest(prompt="a dog", steps=2))]
    assert drawn[-1].WhichOneof("event") == "completed"
    assert not is_idle(erased)
    await erased.stub.Cancel(cancel_pb2.CancelRequest(request_id="r"))
    assert (await refused(call)).code == grpc.StatusCode.CANCELLED
    await until(lambda: is_idle(erased))
    kept = await erased.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="no-cat"))
    assert not kept.audits


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"adapter": "../x"}, "adapter"),
        ({"images": [b"no picture"]}, "images[0]"),
        ({"images": [picture()] * 17}, "images"),
        ({"attacks": ["guess"]}, "attacks[0]"),
        ({"concept": common_pb2.Concept(synonyms=["kitten"])}, "concept.name"),
        ({"concept": common_pb2.Concept(name="x" * 75)}, "concept.name"),
        ({"budget": audit_pb2.AuditBudget(pictures=0)}, "budget.pictures"),
        ({"budget": audit_pb2.AuditBudget(inversion_tokens=[17])}, "budget.inversion_tokens[0]"),
        ({"budget": audit_pb2.AuditBudget(drawing_steps=2**31)}, "budget.drawing_steps"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"samples": 65}, "samples"),
        ({"seed": -1}, "seed"),
        ({"request_id": "r", "attach": True}, "adapter"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_field(erased: World, fields: dict, at_fault: str) -> None:
    answer = await refused(erased.stub.AuditAdapter(request(**fields)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])


async def test_an_adapter_that_is_not_there_is_not_found(world: World) -> None:
    answer = await refused(world.stub.AuditAdapter(request(adapter="nothing")))
    assert answer.code == grpc.StatusCode.NOT_FOUND

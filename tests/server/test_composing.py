"""What ComposeAdapters answers: its events, its refusals, and that it can be attached to and cancelled."""

import grpc
import pytest

from tests.server.world import World, is_idle, refused, until
from unsee.v1 import adapters_pb2, cancel_pb2, common_pb2, compose_pb2, erase_pb2


@pytest.fixture
async def two(world: World) -> World:
    """A server that holds no-cat, which has a synonym, and no-dog."""
    for name, synonyms in (("cat", ["kitten"]), ("dog", [])):
        concept = common_pb2.Concept(name=name, synonyms=synonyms)
        await world.erase(concept=concept, adapter_name=f"no-{name}", method="closed_form", steps=None, strength=1)
    return world


def request(**fields: object) -> compose_pb2.ComposeAdaptersRequest:
    return compose_pb2.ComposeAdaptersRequest(**({"adapters": ["no-cat", "no-dog"]} | fields))


async def test_a_composition_is_queued_progresses_and_completes(two: World) -> None:
    call = two.stub.ComposeAdapters(request(adapter_name="both", labels={"a": "b"}, strength=0.5, request_id="r"))
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("queued", {"progress"}, "completed")
    assert events[0].queued.request_id == "r"
    assert events[-2].progress.phase == erase_pb2.ERASE_PHASE_REPORT
    adapter = events[-1].completed.adapter
    assert (adapter.name, adapter.method, adapter.strength, dict(adapter.labels)) == (
        "both",
        "compose",
        0.5,
        {"a": "b"},
    )
    assert adapter.concept.name == ""
    assert [(c.name, list(c.synonyms)) for c in adapter.concepts] == [("cat", ["kitten"]), ("dog", [])]
    page = await two.stub.ListAdapters(adapters_pb2.ListAdaptersRequest(concept="kitten"))
    assert [found.name for found in page.adapters] == ["both", "no-cat"]


async def test_the_same_request_again_and_attaching_are_answered_with_the_earlier_result(two: World) -> None:
    first = [e async for e in two.stub.ComposeAdapters(request(request_id="r"))][-1]
    for again in (request(request_id="r"), compose_pb2.ComposeAdaptersRequest(request_id="r", attach=True)):
        assert [e async for e in two.stub.ComposeAdapters(again)][-1] == first
    changed = await refused(two.stub.ComposeAdapters(request(request_id="r", strength=0.5)))
    assert changed.fields == ["strength"]
    other = await refused(two.stub.Erase(erase_pb2.EraseRequest(request_id="r", attach=True)))
    assert other.code == grpc.StatusCode.NOT_FOUND


async def test_a_composition_is_cancelled_by_its_id(two: World) -> None:
    many = [f"a cat number {i}" for i in range(256)]
    call = two.stub.ComposeAdapters(request(request_id="r", retain_prompts=many, adapter_name="never"))
    await anext(aiter(call))
    await two.stub.Cancel(cancel_pb2.CancelRequest(request_id="r"))
    assert (await refused(call)).code == grpc.StatusCode.CANCELLED
    await until(lambda: is_idle(two))
    missing = await refused(two.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="never")))
    assert missing.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"adapters": ["no-cat"]}, "adapters"),
        ({"adapters": ["no-cat", "no-cat"]}, "adapters[1]"),
        ({"adapters": ["no-cat", "../x"]}, "adapters[1]"),
        ({"strength": 0}, "strength"),
        ({"retain_prompts": ["a cat"]}, "retain_prompts[0]"),
        ({"request_id": "r", "attach": True}, "adapters"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_field(two: World, fields: dict, at_fault: str) -> None:
    answer = await refused(two.stub.ComposeAdapters(request(**fields)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])


async def test_an_adapter_that_is_not_there_is_not_found(two: World) -> None:
    answer = await refused(two.stub.ComposeAdapters(request(adapters=["no-cat", "nothing"])))
    assert answer.code == grpc.StatusCode.NOT_FOUND

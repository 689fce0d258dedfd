"""Re-attaching by request id, cancelling by it, and how long results are kept."""

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.server.world import (
    LONG,
    World,
    erase_request,
    generate_request,
    is_idle,
    open_channel,
    picture,
    refused,
    serving,
    until,
)
from unsee.v1 import cancel_pb2, common_pb2, erase_pb2, generate_pb2, service_pb2_grpc
from unsee_core.answers import EraseProgress, GenerateProgress, ImageReady, Queued
from unsee_core.lanes import Event
from unsee_core.pipeline import Pipeline
from unsee_server.requests import Request, RequestKey


async def test_the_same_request_again_is_answered_with_the_earlier_result(world: World) -> None:
    request = erase_request(request_id="r", labels={"a": "b", "c": "d"})
    first = [e async for e in world.stub.Erase(request)][-1]
    again = [e async for e in world.stub.Erase(request)]
    assert again[0].queued == erase_pb2.EraseQueued(request_id="r", position=0)
    assert again[-1] == first
    attached = [e async for e in world.stub.Erase(erase_pb2.EraseRequest(request_id="r", attach=True))]
    assert attached[-1] == first


async def test_a_generate_again_is_answered_with_its_images(world: World) -> None:
    request = generate_request(request_id="r", num_images=2)
    request.ClearField("seed")
    first = [e async for e in world.stub.Generate(request) if not e.HasField("progress")]
    again = [e async for e in world.stub.Generate(request) if not e.HasField("progress")]
    assert [e.image.data for e in again[1:3]] == [e.image.data for e in first[1:3]]
    assert again[-1] == first[-1]


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ({"seed": 1}, "seed"),
        ({"images": [picture(1)]}, "images"),
        ({"concept": common_pb2.Concept(name="cat", synonyms=["kitten"])}, "concept"),
        ({"anchor": ""}, "anchor"),
        ({"labels": {"a": "b"}}, "labels"),
        ({"replace": True}, "replace"),
    ],
)
async def test_the_same_id_with_another_request_names_the_field(world: World, change: dict, at_fault: str) -> None:
    call = world.stub.Erase(erase_request(request_id="r", steps=LONG))
    await anext(aiter(call))
    answer = await refused(world.stub.Erase(erase_request(request_id="r", **({"steps": LONG} | change))))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])
    await world.stub.Cancel(cancel_pb2.CancelRequest(request_id="r"))


async def test_an_id_of_an_erase_is_none_of_a_generate(world: World) -> None:
    await world.erase(request_id="r")
    answer = await refused(world.stub.Generate(generate_request(request_id="r")))
    assert answer.fields == ["request_id"]
    answer = await refused(world.stub.Generate(generate_pb2.GenerateRequest(request_id="r", attach=True)))
    assert answer.code == grpc.StatusCode.NOT_FOUND


async def test_an_unknown_id_is_not_found(world: World) -> None:
    attach = erase_pb2.EraseRequest(request_id="nobody", attach=True)
    assert (await refused(world.stub.Erase(attach))).code == grpc.StatusCode.NOT_FOUND
    cancel = cancel_pb2.CancelRequest(request_id="nobody")
    assert (await refused(world.stub.Cancel(cancel))).code == grpc.StatusCode.NOT_FOUND
    assert (await refused(world.stub.Cancel(cancel_pb2.CancelRequest()))).fields == ["request_id"]


async def test_a_request_that_was_refused_can_be_sent_anew_under_its_id(world: World) -> None:
    refs = [generate_pb2.AdapterRef(adapter="no-cat")]
    request = generate_request(request_id="r", adapters=refs)
    assert (await refused(world.stub.Generate(request))).code == grpc.StatusCode.NOT_FOUND
    await world.erase(adapter_name="no-cat")
    assert [e async for e in world.stub.Generate(request)][-1].HasField("completed")


async def test_work_survives_its_broken_stream_and_is_attached_to_again(world: World) -> None:
    request = erase_request(request_id="r", steps=200)
    async with open_channel(world.ports.service) as channel:
        await anext(aiter(service_pb2_grpc.UnseeServiceStub(channel).Erase(request)))
    events = [e async for e in world.stub.Erase(request)]
    assert events[0].HasField("queued")
    assert events[-1].HasField("completed")


async def test_two_streams_follow_the_same_work(world: World) -> None:
    request = erase_request(request_id="r", steps=20)

    async def follow() -> list[erase_pb2.EraseResponse]:
        return [e async for e in world.stub.Erase(request)]

    one, two = await asyncio.gather(follow(), follow())
    assert one[-1] == two[-1]
    assert one[-1].completed.adapter.steps == 20


async def test_nobody_comes_back_in_time_and_the_work_is_cancelled(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, reattach_window=0.3) as world:
        call = world.stub.Erase(erase_request(request_id="r", steps=LONG))
        await anext(aiter(call))
        call.cancel()
        await asyncio.sleep(0.1)
        assert not is_idle(world)
        await until(lambda: is_idle(world))


async def test_a_cancelled_id_frees_its_place_within_a_step_and_tells_every_stream(world: World) -> None:
    call = world.stub.Erase(erase_request(request_id="r", steps=LONG))
    await anext(aiter(call))
    await world.stub.Cancel(cancel_pb2.CancelRequest(request_id="r"))
    answer = await refused(call)
    assert (answer.code, answer.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
    assert is_idle(world)
    attach = erase_pb2.EraseRequest(request_id="r", attach=True)
    assert (await refused(world.stub.Erase(attach))).code == grpc.StatusCode.CANCELLED


async def test_cancelling_what_has_ended_changes_nothing(world: World) -> None:
    adapter = await world.erase(request_id="r")
    await world.stub.Cancel(cancel_pb2.CancelRequest(request_id="r"))
    attached = [e async for e in world.stub.Erase(erase_pb2.EraseRequest(request_id="r", attach=True))]
    assert attached[-1].completed.adapter == adapter


async def test_results_are_forgotten_after_their_time(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, request_ttl=0.2) as world:
        await world.erase(request_id="r")
        await asyncio.sleep(0.4)
        attach = erase_pb2.EraseRequest(request_id="r", attach=True)
        assert (await refused(world.stub.Erase(attach))).code == grpc.StatusCode.NOT_FOUND


async def test_the_oldest_images_leave_when_all_take_too_much(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, result_bytes=3000) as world:
        sizes = []
        for name in "abc":
            events = [e async for e in world.stub.Generate(generate_request(request_id=name))]
            sizes.append(sum(len(e.image.data) for e in events))
        assert 3000 / 3 < sizes[0] < 3000 / 2
        first = generate_pb2.GenerateRequest(request_id="a", attach=True)
        assert (await refused(world.stub.Generate(first))).code == grpc.StatusCode.NOT_FOUND
        last = generate_pb2.GenerateRequest(request_id="c", attach=True)
        assert [e async for e in world.stub.Generate(last)][-1].HasField("completed")


async def test_a_slow_reader_skips_progress_and_gets_all_else_in_order() -> None:
    request = Request(RequestKey("me", "r", is_own=True), "Generate", {})
    image = ImageReady(0, 7, "png", 8, 8, b"data")
    request.add(Queued(3))
    for step in range(1, 100):
        request.add(GenerateProgress(step, 99))
    request.add(image)
    request.add(image)
    request.end(None)
    events: list[Event] = [event async for event in request.events()]
    assert events == [Queued(0), GenerateProgress(99, 99), image, image]


async def test_a_reader_that_keeps_up_gets_every_step() -> None:
    request = Request(RequestKey("me", "r", is_own=True), "Erase", {})
    steps = [EraseProgress("train", step, 5) for step in range(5)]
    events = request.events()
    request.add(Queued(0))
    seen = [await anext(events)]
    for step in steps:
        request.add(step)
        seen.append(await anext(events))
    assert seen == [Queued(0), *steps]

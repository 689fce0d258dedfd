"""What Erase, Generate and GetServerInfo answer."""

import io

import grpc
import pytest
from PIL import Image

from tests.server.world import World, erase_request, generate_request, picture, refused
from unsee.v1 import adapters_pb2, common_pb2, erase_pb2, generate_pb2, info_pb2
from unsee_core.methods import METHODS


async def test_an_erasure_is_queued_progresses_through_its_phases_and_completes(world: World) -> None:
    request = erase_request(adapter_name="no-cat", labels={"team": "a"}, seed=5, request_id="mine")
    events = [event async for event in world.stub.Erase(request)]

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"
    assert set(kinds[1:-1]) == {"progress"}
    assert events[0].queued.request_id == "mine"
    phases = {event.progress.phase for event in events[1:-1]}
    assert erase_pb2.ERASE_PHASE_TRAIN in phases
    adapter = events[-1].completed.adapter
    assert (adapter.name, adapter.seed, adapter.steps, dict(adapter.labels)) == ("no-cat", 5, 2, {"team": "a"})
    assert adapter.concept.name == "cat"
    assert adapter.HasField("report")
    assert not adapter.base_mismatch


async def test_an_erasure_without_a_name_is_called_after_concept_and_digest(world: World) -> None:
    adapter = await world.erase()
    assert adapter.name == f"cat-{adapter.digest.removeprefix('sha256:')[:8]}"


async def test_a_generation_sends_each_image_and_all_that_is_needed_to_draw_it_again(world: World) -> None:
    adapter = await world.erase(adapter_name="no-cat")
    refs = [generate_pb2.AdapterRef(adapter="no-cat", weight=0.5)]
    request = generate_request(adapters=refs, num_images=2, scheduler=generate_pb2.SCHEDULER_EULER)
    events = [event async for event in world.stub.Generate(request)]

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["queued", "progress", "progress", "image", "image", "completed"]
    images, done = [event.image for event in events[3:5]], events[-1].completed
    assert [image.seed for image in images] == list(done.seeds) == [7, 8]
    assert [image.index for image in images] == [0, 1]
    assert Image.open(io.BytesIO(images[0].data)).size == (images[0].width, images[0].height)
    assert (done.scheduler, done.scheduler_class) == (generate_pb2.SCHEDULER_EULER, "EulerDiscreteScheduler")
    assert [(a.name, a.digest, a.weight) for a in done.adapters] == [("no-cat", adapter.digest, 0.5)]
    assert done.timings.total.ToNanoseconds() > 0


async def test_an_absent_seed_is_drawn_and_told(world: World) -> None:
    request = generate_request()
    request.ClearField("seed")
    seeds = [[e async for e in world.stub.Generate(request)][-1].completed.seeds[0] for _ in range(2)]
    assert seeds[0] != seeds[1]


async def test_the_same_seed_draws_the_same_image(world: World) -> None:
    first, second = [[e async for e in world.stub.Generate(generate_request())][-2].image.data for _ in range(2)]
    assert first == second


async def test_the_server_tells_model_limits_and_methods(world: World) -> None:
    info = await world.stub.GetServerInfo(info_pb2.GetServerInfoRequest())
    assert info.version == "1.2.3"
    assert info.model.device == "cpu"
    assert info.model.digest.startswith("sha256:")
    assert info.limits.max_erase_images == 16
    assert [method.name for method in info.methods] == sorted(METHODS)
    assert info.default_method in METHODS
    assert generate_pb2.SCHEDULER_UNSPECIFIED not in info.schedulers
    assert len(info.schedulers) == 6


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"concept": None}, "concept"),
        ({"concept": common_pb2.Concept(name="", synonyms=["kitten"])}, "concept.name"),
        ({"concept": common_pb2.Concept(name="cat", kind=99)}, "concept.kind"),
        ({"concept": common_pb2.Concept(name="cat " * 45)}, "concept.name"),
        ({"images": []}, "images"),
        ({"images": [b"no picture"]}, "images[0]"),
        ({"images": [picture(), picture()[:200]]}, "images[1]"),
        ({"images": [picture()] * 17}, "images"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": 0.0}, "strength"),
        ({"rank": 0}, "rank"),
        ({"steps": 2001}, "steps"),
        ({"seed": -1}, "seed"),
        ({"method": "magic"}, "method"),
        ({"anchor": "\x00"}, "anchor"),
        ({"retain_prompts": ["a dog", ""]}, "retain_prompts[1]"),
        ({"adapter_name": "../x"}, "adapter_name"),
        ({"labels": {"A B": "c"}}, "labels"),
        ({"request_id": "white space"}, "request_id"),
        ({"few_shot_lora": erase_pb2.FewShotLoraOptions(layers=0)}, "few_shot_lora.layers"),
        ({"method": "tail_lora", "few_shot_lora": erase_pb2.FewShotLoraOptions(layers=1)}, "few_shot_lora"),
        ({"attach": True, "request_id": "x"}, "concept"),
    ],
)
async def test_an_erase_that_is_not_allowed_names_the_field(world: World, fields: dict, at_fault: str) -> None:
    answer = await refused(world.stub.Erase(erase_request(**fields)))
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert answer.fields == [at_fault]
    assert "got" in answer.message
    assert world.engine.waiting == world.engine.running == 0


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"negative_prompt": "x" * 2001}, "negative_prompt"),
        ({"adapters": [generate_pb2.AdapterRef(adapter="")]}, "adapters[0].adapter"),
        ({"adapters": [generate_pb2.AdapterRef(adapter="a", weight=float("nan"))]}, "adapters[0].weight"),
        ({"adapters": [generate_pb2.AdapterRef(adapter="a", weight=2.5)]}, "adapters[0].weight"),
        ({"adapters": [generate_pb2.AdapterRef(adapter="a")] * 2}, "adapters[1]"),
        (
            {"adapters": [generate_pb2.AdapterRef(adapter="a", schedule={"start": 0.5, "end": 0.25})]},
            "adapters[0].schedule.end",
        ),
        ({"adapters": [generate_pb2.AdapterRef(adapter="a", schedule={"ramp": -1})]}, "adapters[0].schedule.ramp"),
        ({"guard": generate_pb2.Guard(scale=float("nan"))}, "guard.scale"),
        ({"guard": generate_pb2.Guard(words=["cat"])}, "guard.scale"),
        ({"guard": generate_pb2.Guard(scale=1)}, "guard.words"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63 - 1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 201}, "steps"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"width": 17}, "width"),
        ({"height": 1_000_000}, "height"),
        ({"num_images": 17}, "num_images"),
        ({"scheduler": 99}, "scheduler"),
        ({"image_format": 99}, "image_format"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"attach": True, "request_id": "x"}, "prompt"),
        ({"prompt": "", "attach": True}, "request_id"),
    ],
)
async def test_a_generate_that_is_not_allowed_names_the_field(world: World, fields: dict, at_fault: str) -> None:
    answer = await refused(world.stub.Generate(generate_request(**fields)))
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert answer.fields == [at_fault]
    assert "got" in answer.message


async def test_an_unknown_adapter_is_not_found(world: World) -> None:
    request = generate_request(adapters=[generate_pb2.AdapterRef(adapter="nobody")])
    answer = await refused(world.stub.Generate(request))
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_taken_name_is_refused_unless_it_is_replaced(world: World) -> None:
    first = await world.erase(adapter_name="no-cat")
    answer = await refused(world.stub.Erase(erase_request(adapter_name="no-cat", seed=1)))
    assert (answer.code, answer.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    second = await world.erase(adapter_name="no-cat", seed=1, replace=True)
    assert second.digest != first.digest
    assert (await world.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="no-cat"))).adapter == second


async def test_a_message_beyond_the_limit_is_refused_with_the_limit_named(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [e async for e in world.stub.Erase(erase_request(images=[bytes(2**22)] * 17))]
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(65 * 2**20) in (caught.value.details() or "")


async def test_an_image_beyond_the_limit_is_refused_with_the_limit_named(world: World) -> None:
    answer = await refused(world.stub.Erase(erase_request(images=[bytes(2**22 + 1)])))
    assert answer.fields == ["images[0]"]
    assert str(2**22) in answer.message


async def test_a_bug_is_answered_without_its_text(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(world.engine, "submit", fail)
    answer = await refused(world.stub.Generate(generate_request()))
    assert (answer.code, answer.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in answer.message
    assert "the secret" in caplog.text


async def shown(world: World, adapter: str) -> list[common_pb2.ReportImage]:
    request = adapters_pb2.GetReportImagesRequest(adapter=adapter)
    return [part.image async for part in world.stub.GetReportImages(request)]


async def test_pictures_for_the_report_come_while_they_are_made_and_again_to_who_attaches(world: World) -> None:
    plain = await world.erase(adapter_name="plain", seed=5)
    request = erase_request(adapter_name="shown", seed=5, report_images=2, keep_images=True, request_id="mine")
    events = [event async for event in world.stub.Erase(request)]
    images = [event.image for event in events if event.WhichOneof("event") == "image"]
    assert [(image.with_adapter, image.of_concept) for image in images] == [
        (False, True), (True, True), (False, False), (True, False),
    ]  # fmt: skip
    assert all(Image.open(io.BytesIO(image.png)).format == "PNG" for image in images)
    assert erase_pb2.ERASE_PHASE_DRAW in {event.progress.phase for event in events}

    adapter = events[-1].completed.adapter
    assert adapter.digest == plain.digest
    assert adapter.report.integrity.prompts == 1
    assert adapter.report.phase_durations["draw"].ToNanoseconds() > 0
    assert not plain.report.HasField("integrity")
    again = [event async for event in world.stub.Erase(erase_pb2.EraseRequest(request_id="mine", attach=True))]
    assert [event.image for event in again if event.WhichOneof("event") == "image"] == images
    assert await shown(world, "shown") == images


async def test_pictures_are_kept_only_where_that_was_asked_for_and_leave_with_the_adapter(world: World) -> None:
    for name, keep in (("shown", False), ("kept", True)):
        await world.erase(adapter_name=name, seed=len(name), report_images=2, keep_images=keep)
    assert await shown(world, "shown") == []
    assert len(list((world.store / "images").iterdir())) == len({image.png for image in await shown(world, "kept")})
    await world.stub.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(name="kept"))
    assert list((world.store / "images").iterdir()) == []
    answer = await refused(world.stub.GetReportImages(adapters_pb2.GetReportImagesRequest(adapter="kept")))
    assert answer.code is grpc.StatusCode.NOT_FOUND


async def test_pictures_that_could_not_be_kept_are_refused_before_any_work(world: World) -> None:
    answer = await refused(world.stub.Erase(erase_request(keep_images=True)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["keep_images"])

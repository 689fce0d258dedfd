"""The SDK against a server that fails as told: errors, retries, re-attaching, downloads."""

import asyncio
import hashlib
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from PIL import Image

import unsee
from tests.client.conftest import Scripted, failing
from unsee.errors import Status
from unsee.v1 import adapters_pb2, cancel_pb2, common_pb2, compose_pb2, erase_pb2, generate_pb2

Server = tuple[Scripted, str]
ADAPTER = common_pb2.Adapter(name="no-cat", digest="sha256:" + "0" * 64, concept=common_pb2.Concept(name="cat"))


def queued(request_id: str) -> erase_pb2.EraseResponse:
    return erase_pb2.EraseResponse(queued=erase_pb2.EraseQueued(request_id=request_id))


def step(number: int) -> erase_pb2.EraseResponse:
    progress = erase_pb2.EraseProgress(phase=erase_pb2.ERASE_PHASE_TRAIN, step=number, total=9, losses={"forget": 0.5})
    return erase_pb2.EraseResponse(progress=progress)


def completed() -> erase_pb2.EraseResponse:
    return erase_pb2.EraseResponse(completed=erase_pb2.EraseCompleted(adapter=ADAPTER))


def erases(request: erase_pb2.EraseRequest, context: Any) -> list[Any]:
    return [queued(request.request_id), step(1), completed()]


def composes(request: compose_pb2.ComposeAdaptersRequest, context: Any) -> list[Any]:
    both = common_pb2.Adapter(name="both", concepts=[common_pb2.Concept(name=name) for name in ("cat", "dog")])
    return [
        compose_pb2.ComposeAdaptersResponse(queued=erase_pb2.EraseQueued(request_id=request.request_id)),
        compose_pb2.ComposeAdaptersResponse(progress=step(1).progress),
        compose_pb2.ComposeAdaptersResponse(completed=erase_pb2.EraseCompleted(adapter=both)),
    ]


def test_the_package_loads_without_torch_and_numpy() -> None:
    code = "import sys, unsee; print(sorted({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_what_the_package_exports_is_written_down() -> None:
    public = {name for name in vars(unsee) if not name.startswith("_")}
    assert set(unsee.__all__) == {name for name in public if not isinstance(getattr(unsee, name), ModuleType)}
    assert unsee.__all__ == sorted(unsee.__all__)


def test_an_erasure_gives_its_events_in_order_and_ends_with_the_adapter(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [erases]
    events: list[Any] = []
    with unsee.Client(target) as client:
        adapter = client.erase(
            "cat",
            events.append,
            images=[Image.new("RGB", (8, 8))],
            synonyms=["kitten"],
            method="few_shot_lora",
            options={"layers": 3},
        )
    assert [type(e).__name__ for e in events] == ["Queued", "EraseProgress", "Adapter"]
    assert (events[1].phase, events[1].step, events[1].losses) == ("train", 1, {"forget": 0.5})
    assert adapter.name == "no-cat"
    (_, request) = servicer.asked[0]
    assert request.concept.synonyms == ["kitten"]
    assert request.images[0].startswith(b"\x89PNG")
    assert request.few_shot_lora.layers == 3
    assert len(request.request_id) == 36


def test_a_composition_gives_its_events_and_an_adapter_of_all_concepts(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["ComposeAdapters"] = [composes]
    events: list[Any] = []
    with unsee.Client(target) as client:
        adapter = client.compose(["no-cat", "no-dog"], events.append, name="both", strength=0.5)
        assert client.attach_compose("mine").result().name == "both"
        with pytest.raises(unsee.InvalidArgumentError, match="adapters: got one str"):
            client.start_compose("no-cat")
    assert [type(e).__name__ for e in events] == ["Queued", "EraseProgress", "Adapter"]
    assert [concept.name for concept in adapter.concepts] == ["cat", "dog"]
    first, second = (request for _, request in servicer.asked)
    assert (list(first.adapters), first.adapter_name, first.strength) == (["no-cat", "no-dog"], "both", 0.5)
    assert second == compose_pb2.ComposeAdaptersRequest(request_id="mine", attach=True)


def test_a_broken_stream_is_opened_again_with_the_same_request_and_nothing_comes_twice(scripted: Server) -> None:
    servicer, target = scripted

    def breaks(request: Any, context: Any) -> list[Any]:
        return [queued(request.request_id), step(1), failing(context, grpc.StatusCode.UNAVAILABLE)]

    servicer.script["Erase"] = [breaks, erases]
    events: list[Any] = []
    with unsee.Client(target) as client:
        client.erase("cat", events.append)
    first, second = (request for _, request in servicer.asked)
    assert first == second
    assert sum(isinstance(e, unsee.Queued) for e in events) == 1


def test_a_full_queue_is_tried_again_when_the_server_says(scripted: Server) -> None:
    servicer, target = scripted

    def full(request: Any, context: Any) -> list[Any]:
        return [failing(context, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.05)]

    servicer.script["Erase"] = [full, full, erases]
    with unsee.Client(target) as client:
        assert client.erase("cat").name == "no-cat"
    assert len(servicer.asked) == 3


def test_an_error_carries_all_that_the_server_said(scripted: Server) -> None:
    servicer, target = scripted

    def refuses(request: Any, context: Any) -> Any:
        return failing(context, grpc.StatusCode.INVALID_ARGUMENT, "rank: got 0", reason="INVALID_REQUEST")

    servicer.script["GetAdapter"] = [refuses]
    with unsee.Client(target) as client, pytest.raises(unsee.InvalidArgumentError, match="rank: got 0") as refused:
        client.get_adapter("no-cat")
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.violations == (unsee.FieldViolation("rank", "got 0, allowed 1-64"),)
    assert refused.value.retry_delay_s is None


@pytest.mark.parametrize("kind", unsee.Error.__subclasses__())
def test_every_status_has_its_error(kind: type[unsee.Error], scripted: Server) -> None:
    servicer, target = scripted
    code = grpc.StatusCode[kind.status.name]
    servicer.script["GetAdapter"] = [lambda request, context: failing(context, code)]
    with unsee.Client(target) as client, pytest.raises(kind):
        client.get_adapter("no-cat")


def test_every_status_of_grpc_is_known() -> None:
    assert {s.name for s in Status} == {c.name for c in grpc.StatusCode} - {"OK"}


def test_a_server_that_is_not_there_is_an_unavailable_error() -> None:
    with unsee.Client("127.0.0.1:1") as client, pytest.raises(unsee.UnavailableError):
        client.server_info()


def test_waiting_for_a_result_can_time_out_while_the_work_goes_on(scripted: Server) -> None:
    servicer, target = scripted

    async def slowly() -> Any:
        await asyncio.sleep(0.5)
        return completed()

    servicer.script["Erase"] = [lambda request, context: [queued(request.request_id), slowly()]]
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        with pytest.raises(unsee.DeadlineExceededError, match=job.request_id):
            job.result(timeout=0.05)
        assert job.result(timeout=10).name == "no-cat"
        assert len(list(job)) == len(list(job)) == 2


def test_cancelling_a_job_asks_the_server_to_stop_it(scripted: Server) -> None:
    servicer, target = scripted
    stopped: list[str] = []

    async def until_cancelled(context: Any) -> Any:
        while not stopped:
            await asyncio.sleep(0.01)
        await failing(context, grpc.StatusCode.CANCELLED, reason="CANCELLED")

    def cancel(request: Any, context: Any) -> Any:
        stopped.append(request.request_id)
        return cancel_pb2.CancelResponse()

    servicer.script["Erase"] = [lambda request, context: [queued(request.request_id), until_cancelled(context)]]
    servicer.script["Cancel"] = [cancel]
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        job.cancel()
        with pytest.raises(unsee.CancelledError):
            job.result()
    assert stopped == [job.request_id]


def test_attaching_asks_for_the_id_alone(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [erases]
    with unsee.Client(target) as client:
        assert client.attach("mine").result().name == "no-cat"
    assert servicer.asked == [("Erase", erase_pb2.EraseRequest(request_id="mine", attach=True))]


def test_a_stream_without_its_last_event_is_an_error(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [lambda request, context: [queued(request.request_id)]]
    with unsee.Client(target) as client, pytest.raises(unsee.InternalError, match="last event"):
        client.erase("cat")


def test_pictures_come_with_the_result_in_order(scripted: Server, tmp_path: Path) -> None:
    servicer, target = scripted

    def draws(request: generate_pb2.GenerateRequest, context: Any) -> list[Any]:
        pictures = [
            generate_pb2.GenerateImage(
                index=i, seed=request.seed + i, format=generate_pb2.IMAGE_FORMAT_PNG, data=b"png"
            )
            for i in range(request.num_images)
        ]
        done = generate_pb2.GenerateCompleted(seeds=[request.seed, request.seed + 1], scheduler_class="DDIMScheduler")
        return [
            *(generate_pb2.GenerateResponse(image=p) for p in pictures),
            generate_pb2.GenerateResponse(completed=done),
        ]

    servicer.script["Generate"] = [draws]
    with unsee.Client(target) as client:
        result = client.generate("a cat", adapters=["a", ("b", 0.5)], seed=7, num_images=2)
    assert [image.seed for image in result] == [7, 8]
    assert result[1].save(tmp_path / "cat.png").read_bytes() == b"png"
    (_, request) = servicer.asked[0]
    assert [(a.adapter, a.HasField("weight")) for a in request.adapters] == [("a", False), ("b", True)]
    assert not request.HasField("guidance_scale")


def test_the_seed_of_a_generation_is_drawn_here_so_that_a_second_try_draws_the_same(scripted: Server) -> None:
    servicer, target = scripted

    def breaks(request: Any, context: Any) -> list[Any]:
        return [failing(context, grpc.StatusCode.UNAVAILABLE)]

    def done(request: Any, context: Any) -> list[Any]:
        return [generate_pb2.GenerateResponse(completed=generate_pb2.GenerateCompleted())]

    servicer.script["Generate"] = [breaks, done]
    with unsee.Client(target) as client:
        client.generate("a cat")
    first, second = (request for _, request in servicer.asked)
    assert first.HasField("seed")
    assert first.seed == second.seed


def download_parts(data: bytes, offset: int = 0, size: int = 4) -> list[adapters_pb2.DownloadAdapterResponse]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    header = adapters_pb2.AdapterHeader(name="no-cat", size_bytes=len(data), sha256=digest)
    chunks = [
        adapters_pb2.AdapterChunk(offset=at, data=data[at : at + size], crc32=zlib.crc32(data[at : at + size]))
        for at in range(offset, len(data), size)
    ]
    return [
        adapters_pb2.DownloadAdapterResponse(header=header),
        *(adapters_pb2.DownloadAdapterResponse(chunk=chunk) for chunk in chunks),
    ]


def test_a_broken_download_goes_on_where_it_broke(scripted: Server) -> None:
    servicer, target = scripted
    data = b"0123456789"

    def breaks(request: Any, context: Any) -> list[Any]:
        return [*download_parts(data)[:2], failing(context, grpc.StatusCode.UNAVAILABLE)]

    servicer.script["DownloadAdapter"] = [breaks, lambda request, _: download_parts(data, request.offset)]
    with unsee.Client(target) as client:
        assert client.download("no-cat") == data
    assert [request.offset for _, request in servicer.asked] == [0, 4]


def test_a_damaged_download_is_a_data_loss(scripted: Server) -> None:
    servicer, target = scripted
    damaged = download_parts(b"0123456789")
    damaged[1].chunk.data = b"abcd"
    servicer.script["DownloadAdapter"] = [lambda request, context: damaged]
    with unsee.Client(target) as client, pytest.raises(unsee.DataLossError):
        client.download("no-cat")


def test_every_page_of_a_list_is_fetched(scripted: Server) -> None:
    servicer, target = scripted
    page = adapters_pb2.ListAdaptersResponse
    servicer.script["ListAdapters"] = [
        lambda request, context: page(adapters=[ADAPTER], next_page_token="more"),
        lambda request, context: page(adapters=[ADAPTER]),
    ]
    with unsee.Client(target) as client:
        assert [a.name for a in client.list_adapters(labels={"team": "legal"})] == ["no-cat", "no-cat"]
    assert [request.page_token for _, request in servicer.asked] == ["", "more"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["/nowhere/cat.png"]}, "images\\[0\\]: /nowhere/cat.png cannot be read"),
        ({"images": [3]}, "images\\[0\\]: got int"),
        ({"kind": "animal"}, "kind: got 'animal'"),
        ({"rank": -1}, "rank: got '-1'"),
        ({"seed": 2**64}, "seed: got"),
        ({"strength": "much"}, "strength: got 'much'"),
    ],
)
def test_what_does_not_fit_the_wire_is_refused_with_its_field(options: dict[str, Any], message: str) -> None:
    with unsee.Client("127.0.0.1:1") as client, pytest.raises(unsee.InvalidArgumentError, match=message):
        client.erase("cat", **options)


def test_a_token_is_not_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(unsee.InvalidArgumentError, match="plaintext"):
        unsee.Client("unsee.example.com:50051", token="secret")
    unsee.Client("127.0.0.1:50051", token="secret").close()
    unsee.Client("unsee.example.com:50051", token="secret", tls=True).close()


def test_closing_twice_does_no_harm_and_a_closed_client_says_so() -> None:
    client = unsee.Client("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.server_info()


def test_one_client_serves_many_threads(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [erases]
    with unsee.Client(target) as client, ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: client.erase("cat").name, range(32)))
    assert names == ["no-cat"] * 32


async def test_the_asyncio_client_does_the_same(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [erases]
    async with unsee.AsyncClient(target) as client:
        job = client.start_erase("cat")
        events = [event async for event in job]
        assert len(events) == 3
        assert (await job.result()).name == "no-cat"


def test_the_two_clients_have_the_same_calls() -> None:
    calls = [{n for n in vars(kind) if not n.startswith("_")} for kind in (unsee.Client, unsee.AsyncClient)]
    assert calls[0] == calls[1]


def test_every_public_call_has_an_example() -> None:
    for kind in (unsee.Client, unsee.AsyncClient):
        for name, call in vars(kind).items():
            if not name.startswith("_") and name != "close":
                assert "Example:" in (call.__doc__ or ""), f"{kind.__name__}.{name}"


def pictured(request: erase_pb2.EraseRequest, context: Any) -> list[Any]:
    pictures = [
        common_pb2.ReportImage(
            prompt=f"prompt {i // 2}", seed=i // 2, with_adapter=i % 2 == 1, of_concept=i < 2, png=b"%d" % i
        )
        for i in range(2 * request.report_images)
    ]
    return [queued(request.request_id), *(erase_pb2.EraseResponse(image=one) for one in pictures), completed()]


def test_pictures_of_a_report_are_events_once_each_though_the_stream_breaks(scripted: Server) -> None:
    def broken(request: erase_pb2.EraseRequest, context: Any) -> Any:
        return [*pictured(request, context)[:3], failing(context, grpc.StatusCode.UNAVAILABLE)]

    servicer, target = scripted
    servicer.script["Erase"] = [broken, pictured]
    with unsee.Client(target) as client:
        job = client.start_erase("cat", images=[b"png"], report_images=2)
        images = [event for event in job if isinstance(event, unsee.ReportImage)]
    assert [(one.prompt, one.seed, one.with_adapter, one.of_concept, one.data) for one in images] == [
        (f"prompt {i // 2}", i // 2, i % 2 == 1, i < 2, b"%d" % i) for i in range(4)
    ]


def test_kept_pictures_are_asked_for_by_name(scripted: Server) -> None:
    def answers(request: adapters_pb2.GetReportImagesRequest, context: Any) -> list[Any]:
        image = common_pb2.ReportImage(prompt=request.adapter, png=b"png")
        return [adapters_pb2.GetReportImagesResponse(image=image)]

    servicer, target = scripted
    servicer.script["GetReportImages"] = [
        answers,
        lambda request, context: [failing(context, grpc.StatusCode.NOT_FOUND)],
    ]
    with unsee.Client(target) as client:
        (image,) = client.report_images("no-cat")
        assert (image.prompt, image.data) == ("no-cat", b"png")
        with pytest.raises(unsee.NotFoundError):
            client.report_images("nobody")

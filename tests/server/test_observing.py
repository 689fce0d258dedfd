"""What an operator sees: health, reflection, metrics, logs; and what nobody must see."""

import asyncio
import logging
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.server.world import World, erase_request, generate_request, open_channel, picture, refused, serving
from unsee.v1 import common_pb2, info_pb2, service_pb2_grpc
from unsee_core.pipeline import Pipeline
from unsee_server.app import App
from unsee_server.calls import SERVICE
from unsee_server.settings import Settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str = "") -> int:
    """Return the status that a probe sees."""
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_is_told_on_both_ports_and_the_health_port_knows_nothing_else(
    tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    async with serving(tiny_pipeline, tmp_path, health_port=0) as world:
        assert world.ports.health
        async with open_channel(world.ports.health) as probe:
            for channel in (world.channel, probe):
                assert await health_of(channel) == await health_of(channel, SERVICE) == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service_pb2_grpc.UnseeServiceStub(probe).GetServerInfo(info_pb2.GetServerInfoRequest())
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_health_answers_while_the_model_loads_and_calls_are_told_to_come_back(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def load(*_: Any) -> Any:
        goes_on.wait(60)
        raise OSError("no model in this test")

    app = App(Settings(model="tiny", store=str(tmp_path), port=0, health_port=0), (), load)
    ports = await app.start()
    loading = asyncio.create_task(app.load())
    assert ports.health
    async with open_channel(ports.service) as channel, open_channel(ports.health) as probe:
        assert await health_of(probe) == await health_of(channel, SERVICE) == NOT_SERVING
        stub = service_pb2_grpc.UnseeServiceStub(channel)
        answer = await refused(stub.GetServerInfo(info_pb2.GetServerInfoRequest()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "LOADING")
        assert answer.retry_s
    goes_on.set()
    with pytest.raises(OSError, match="no model"):
        await loading
    await app.stop()


async def test_a_watcher_sees_the_server_go(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, health_port=0) as world:
        assert world.ports.health
        async with open_channel(world.ports.health) as probe:
            watch = health_pb2_grpc.HealthStub(probe).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await anext(aiter(watch))).status == SERVING
            stopping = asyncio.create_task(world.stop())
            assert (await anext(aiter(watch))).status == NOT_SERVING
            await stopping


async def test_reflection_lists_the_services(world: World) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(world.channel)

    async def ask() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(ask())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


def samples(port: int) -> dict[tuple[str, ...], float]:
    """Return all samples: name and label values -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_calls_and_work(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, metrics_port=0) as world:
        await world.erase(adapter_name="no-cat")
        _ = [e async for e in world.stub.Generate(generate_request(num_images=2))]
        await refused(world.stub.Generate(generate_request(steps=0)))
        assert world.ports.metrics
        seen = await asyncio.to_thread(samples, world.ports.metrics)

    def value(name: str, *labels: str) -> float:
        return seen[name, *labels]

    assert value("grpc_server_started_total", "Generate", SERVICE, "server_stream") == 2
    assert value("grpc_server_handled_total", "OK", "Generate", SERVICE, "server_stream") == 1
    assert value("grpc_server_handled_total", "INVALID_ARGUMENT", "Generate", SERVICE, "server_stream") == 1
    assert value("grpc_server_msg_received_total", "Generate", SERVICE, "server_stream") == 2
    assert value("grpc_server_msg_sent_total", "Generate", SERVICE, "server_stream") == 6
    assert value("grpc_server_handling_seconds_count", "Generate", SERVICE, "server_stream") == 2
    assert value("unsee_erase_seconds_count", "ok") == value("unsee_generate_seconds_count", "ok") == 1
    assert value("unsee_steps_total", "generate") == 2
    assert value("unsee_batch_images_sum") == 4
    assert value("unsee_queue_seconds_count", "erase") == 1
    assert value("unsee_requests_running") == value("unsee_requests_waiting") == 0
    assert value("unsee_embedding_cache_misses_total") == 2
    assert value("process_resident_memory_bytes") > 0
    assert not [key for key in seen if {"no-cat", "cat", "a dog"} & set(key)]


async def test_a_clients_pictures_and_words_stay_in_memory(
    tiny_pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    caplog.set_level(logging.INFO)
    images = [picture(seed) for seed in range(3)]
    async with serving(tiny_pipeline, tmp_path / "store") as world:
        concept = common_pb2.Concept(name="zyzzyva")
        _ = [e async for e in world.stub.Erase(erase_request(concept=concept, images=images, request_id="r"))]
        _ = [e async for e in world.stub.Generate(generate_request(prompt="a xylograph"))]
        await refused(world.stub.Erase(erase_request(concept=concept, images=[*images, b"zyzzyva"])))
    written = contents(tmp_path)
    assert len([data for data in written if data]) == 2  # the adapter's bytes and its manifest
    logged = caplog.text + "".join(capfd.readouterr())
    assert "request_id=r" in logged
    for data in (*written, logged.encode()):
        for image in images:
            assert not any(image[start : start + 64] in data for start in range(64, len(image) - 64, 64))
    assert "zyzzyva" not in logged
    assert "xylograph" not in logged


def contents(folder: Path) -> list[bytes]:
    """Return the bytes of all files below a folder."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]

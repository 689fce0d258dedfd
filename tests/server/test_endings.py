"""However a stream ends, its place is free within a step and nothing is left behind."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from tests.server.world import LONG, World, erase_request, generate_request, is_idle, refused, serving, until
from unsee.v1 import info_pb2
from unsee_core.pipeline import Pipeline

STREAMS = ("Erase", "Generate")


def start(world: World, rpc: str, **options: float) -> grpc.aio.UnaryStreamCall:
    """Begin work that does not end by itself within a test."""
    if rpc == "Erase":
        return world.stub.Erase(erase_request(steps=LONG), **options)
    return world.stub.Generate(generate_request(steps=200, num_images=4, width=64, height=64), **options)


@pytest.mark.parametrize("rpc", STREAMS)
async def test_a_cancelled_call_frees_its_place(world: World, rpc: str) -> None:
    call = start(world, rpc)
    while not (await anext(aiter(call))).HasField("progress"):
        pass
    assert world.engine.running == 1
    call.cancel()
    await until(lambda: is_idle(world))
    assert not list(world.store.glob("manifests/*"))


@pytest.mark.parametrize("rpc", STREAMS)
async def test_a_call_past_its_deadline_frees_its_place(world: World, rpc: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [e async for e in start(world, rpc, timeout=0.5)]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: is_idle(world))


@pytest.mark.parametrize("rpc", STREAMS)
async def test_a_deadline_that_is_too_short_for_anything_frees_its_place(world: World, rpc: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        _ = [e async for e in start(world, rpc, timeout=0.001)]
    await asyncio.sleep(0.2)
    await until(lambda: is_idle(world))


KILLED = """
import grpc, sys
from unsee.v1 import erase_pb2, generate_pb2, service_pb2_grpc
kind = {"Erase": erase_pb2.EraseRequest, "Generate": generate_pb2.GenerateRequest}[sys.argv[2]]
stub = service_pb2_grpc.UnseeServiceStub(grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}"))
for event in getattr(stub, sys.argv[2])(kind.FromString(sys.stdin.buffer.read())):
    print("event", flush=True)
"""


@pytest.mark.parametrize("rpc", STREAMS)
async def test_a_killed_client_frees_its_place(world: World, rpc: str) -> None:
    request = erase_request(steps=LONG) if rpc == "Erase" else generate_request(steps=200, num_images=4, width=64)
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", KILLED, str(world.ports.service), rpc),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdin
    assert client.stdout
    client.stdin.write(request.SerializeToString())
    client.stdin.close()
    assert await client.stdout.readline() == b"event\n"
    client.kill()
    await client.wait()
    await until(lambda: is_idle(world))


async def test_cancelling_as_the_work_ends_leaves_nothing_behind(world: World) -> None:
    for delay_ms in range(0, 60, 5):
        call = world.stub.Generate(generate_request(steps=1))
        await anext(aiter(call))
        await asyncio.sleep(delay_ms / 1000)
        call.cancel()
    await until(lambda: is_idle(world))
    assert [e async for e in world.stub.Generate(generate_request())][-1].HasField("completed")


async def test_a_reader_that_never_reads_holds_nothing_up(world: World) -> None:
    stuck = world.stub.Generate(generate_request(num_images=16, width=64, height=64, steps=1))
    await until(lambda: world.engine.running == 1)
    await until(lambda: is_idle(world))
    assert [e async for e in world.stub.Generate(generate_request())][-1].HasField("completed")
    assert [e async for e in stuck][-1].HasField("completed")


async def test_a_full_queue_is_told_at_once_with_a_time_to_try_again(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, max_queue=1) as world:
        running = start(world, "Erase")
        while not (await anext(aiter(running))).HasField("progress"):
            pass
        waiting = start(world, "Erase")
        queued = await anext(aiter(waiting))
        assert queued.queued.position == 1
        answer = await refused(world.stub.Erase(erase_request()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert answer.retry_s
        waiting.cancel()
        await until(lambda: world.engine.waiting == 0)
        running.cancel()
        await until(lambda: is_idle(world))


async def test_other_calls_are_answered_while_the_device_is_busy(world: World) -> None:
    busy = start(world, "Erase")
    await anext(aiter(busy))
    await world.stub.GetServerInfo(info_pb2.GetServerInfoRequest())
    assert [e async for e in world.stub.Generate(generate_request())][-1].HasField("completed")
    assert world.engine.running == 1
    busy.cancel()


async def test_the_end_of_the_server_leaves_no_thread_and_no_task(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with serving(tiny_pipeline, tmp_path, metrics_port=0, health_port=0) as world:
        await world.erase()
        start(world, "Erase").cancel()
    await asyncio.sleep(0.1)
    left = {thread.name for thread in set(threading.enumerate()) - threads if not thread.name.startswith("Thread-")}
    assert not {name for name in left if not name.startswith("asyncio")}
    assert not asyncio.all_tasks() - tasks


async def test_running_work_ends_within_the_grace_and_new_calls_are_unavailable(
    tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    async with serving(tiny_pipeline, tmp_path) as world:
        call = world.stub.Erase(erase_request(steps=30))
        await anext(aiter(call))
        stopping = asyncio.create_task(world.stop())
        await asyncio.sleep(0.05)
        answer = await refused(world.stub.GetServerInfo(info_pb2.GetServerInfoRequest()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert answer.retry_s
        assert [e async for e in call][-1].HasField("completed")
        await stopping


async def test_work_beyond_the_grace_is_told_so(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    async with serving(tiny_pipeline, tmp_path, grace=0.2) as world:
        call = start(world, "Erase")
        await anext(aiter(call))
        stopping = asyncio.create_task(world.stop())
        answer = await refused(call)
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping

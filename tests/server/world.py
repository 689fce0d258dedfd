"""A server in this process on free ports of 127.0.0.1, with a tiny real model; and what its callers need."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from prometheus_client import CollectorRegistry

from unsee.v1 import common_pb2, erase_pb2, generate_pb2, service_pb2_grpc
from unsee_core.engine import Engine
from unsee_core.methods import METHODS
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore
from unsee_server.app import App, Ports
from unsee_server.auth import Token
from unsee_server.metrics import EngineMetrics
from unsee_server.service import Backend
from unsee_server.settings import Settings

LONG = 2000  # steps of an erasure that no test waits for


@dataclass
class World:
    """A running server and a channel to it."""

    app: App
    ports: Ports
    engine: Engine
    store: Path
    channel: grpc.aio.Channel
    stub: Any
    is_stopped: bool = False

    async def stop(self) -> None:
        """Stop the server, once."""
        if not self.is_stopped:
            self.is_stopped = True
            await self.app.stop()

    async def erase(self, **fields: Any) -> common_pb2.Adapter:
        """Erase a cat in two steps, and return the adapter."""
        events = [event async for event in self.stub.Erase(erase_request(**fields))]
        return events[-1].completed.adapter


@asynccontextmanager
async def serving(
    pipeline: Pipeline, store: Path, *, tokens: tuple[Token, ...] = (), **settings: Any
) -> AsyncIterator[World]:
    """Serve ``pipeline`` while the context lasts; ``settings`` are those of the server."""
    defaults = {"port": 0, "grace": 300, "store": str(store)}
    engines = []

    def load(settings: Settings, registry: CollectorRegistry) -> Backend:
        adapters = AdapterStore(settings.store)
        engines.append(Engine(pipeline, adapters, limits=settings.limits, observer=EngineMetrics(registry)))
        return Backend(engines[0], METHODS, "1.2.3")

    app = App(Settings(model="tiny", **(defaults | settings)), tokens, load)
    ports = await app.start()
    await app.load()
    async with open_channel(ports.service) as channel:
        world = World(app, ports, engines[0], store, channel, service_pb2_grpc.UnseeServiceStub(channel))
        try:
            yield world
        finally:
            await world.stop()


def open_channel(port: int) -> grpc.aio.Channel:
    """Return a plaintext channel of its own connection."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


def picture(seed: int = 0, size: int = 32) -> bytes:
    """Return a PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def erase_request(**fields: Any) -> erase_pb2.EraseRequest:
    """Return a request for a cat's erasure in two steps, changed by ``fields``."""
    defaults = {"concept": common_pb2.Concept(name="cat"), "images": [picture()], "method": "few_shot_lora", "steps": 2}
    return erase_pb2.EraseRequest(**(defaults | fields))


def generate_request(**fields: Any) -> generate_pb2.GenerateRequest:
    """Return a request for a dog in two steps, changed by ``fields``."""
    return generate_pb2.GenerateRequest(**({"prompt": "a dog", "steps": 2, "seed": 7} | fields))


@dataclass
class Refusal:
    """An error as the caller sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: list[str]
    retry_s: float | None


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Return what an error says."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    found = [detail.Unpack(kind) for detail in status.details for kind in (info, bad, retry)]
    assert sum(found) == len(status.details)
    assert info.domain == "unsee"
    delay = retry.retry_delay.ToNanoseconds() / 1e9
    fields = [violation.field for violation in bad.field_violations]
    return Refusal(error.code(), error.details() or "", info.reason, fields, delay or None)


async def refused(call: Any) -> Refusal:
    """Return how a call is refused; fails if it is answered."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("the call was answered")


async def until(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    """Return when ``condition()`` is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def is_idle(world: World) -> bool:
    """Return whether the engine has nothing to do."""
    return world.engine.waiting == world.engine.running == 0

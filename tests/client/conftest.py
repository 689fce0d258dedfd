"""A server on 127.0.0.1 whose answers a test writes down: for what a real one does only when it fails."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from unsee.v1 import service_pb2_grpc
from unsee.v1.audit_pb2 import AuditAdapterRequest
from unsee.v1.compose_pb2 import ComposeAdaptersRequest
from unsee.v1.erase_pb2 import EraseRequest
from unsee.v1.generate_pb2 import GenerateRequest

Script = Callable[[Any, Any], Any]


class Scripted(service_pb2_grpc.UnseeServiceServicer):
    """Answers each call with the next entry of its script, and remembers what was asked."""

    def __init__(self) -> None:
        self.script: dict[str, list[Script]] = {}
        self.asked: list[tuple[str, Any]] = []

    def _next(self, method: str, request: Any) -> Script:
        self.asked.append((method, request))
        entries = self.script[method]
        return entries.pop(0) if len(entries) > 1 else entries[0]

    async def _stream(self, method: str, request: Any, context: Any) -> AsyncIterator[Any]:
        for item in self._next(method, request)(request, context):
            yield await item if isinstance(item, Awaitable) else item

    async def Erase(self, request: EraseRequest, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("Erase", request, context):
            yield item

    async def ComposeAdapters(self, request: ComposeAdaptersRequest, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("ComposeAdapters", request, context):
            yield item

    async def AuditAdapter(self, request: AuditAdapterRequest, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("AuditAdapter", request, context):
            yield item

    async def Generate(self, request: GenerateRequest, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("Generate", request, context):
            yield item

    async def DownloadAdapter(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("DownloadAdapter", request, context):
            yield item

    async def GetReportImages(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for item in self._stream("GetReportImages", request, context):
            yield item

    async def _unary(self, method: str, request: Any, context: Any) -> Any:
        answer = self._next(method, request)(request, context)
        return await answer if isinstance(answer, Awaitable) else answer

    async def ImportAdapter(self, request_iterator: Any, context: Any) -> Any:
        parts = [part async for part in request_iterator]
        return await self._unary("ImportAdapter", parts[0], context)

    async def GetAdapter(self, request: Any, context: Any) -> Any:
        return await self._unary("GetAdapter", request, context)

    async def ListAdapters(self, request: Any, context: Any) -> Any:
        return await self._unary("ListAdapters", request, context)

    async def Cancel(self, request: Any, context: Any) -> Any:
        return await self._unary("Cancel", request, context)


def failing(
    context: Any, code: grpc.StatusCode, message: str = "no", *, reason: str = "", retry_after_s: float | None = None
) -> Awaitable[None]:
    """Return what ends the call with this status and its details."""
    number: int = code.value[0]
    rich = status_pb2.Status(code=number, message=message)
    if reason:
        rich.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="unsee"))
        violation = error_details_pb2.BadRequest.FieldViolation(field="rank", description="got 0, allowed 1-64")
        rich.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_after_s is not None:
        delay = Duration(nanos=int(retry_after_s * 1e9))
        rich.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    assert code_pb2.Code.Name(number) == code.name
    return context.abort_with_status(rpc_status.to_status(rich))  # type: ignore[no-any-return]


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, str]]:
    """A running scripted server, on a loop of its own, and its address."""
    servicer, loop, address = Scripted(), asyncio.new_event_loop(), []
    started = threading.Event()

    async def serve() -> grpc.aio.Server:
        server = grpc.aio.server()
        service_pb2_grpc.add_UnseeServiceServicer_to_server(servicer, server)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        await healthy.set("unsee.v1.UnseeService", health_pb2.HealthCheckResponse.SERVING)
        address.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        return server

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(serve())
        started.set()
        loop.run_forever()
        loop.run_until_complete(server.stop(None))
        loop.run_until_complete(asyncio.wait([*asyncio.all_tasks(loop), loop.create_task(asyncio.sleep(0))], timeout=5))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    yield servicer, address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()

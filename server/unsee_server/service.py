"""The calls: convert, run, reply."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from unsee.v1 import (
    adapters_pb2,
    audit_pb2,
    cancel_pb2,
    compose_pb2,
    erase_pb2,
    generate_pb2,
    info_pb2,
    service_pb2_grpc,
)
from unsee_core.audit.job import AuditJob
from unsee_core.errors import InvalidRequestError, QueueFullError, ShuttingDownError
from unsee_core.job import ComposeJob, EraseJob, GenerateJob
from unsee_core.lanes import Event
from unsee_server import convert, convert_adapters, convert_audit, replies, replies_audit
from unsee_server.calls import Call, current_call
from unsee_server.errors import LoadingError
from unsee_server.registry import RequestRegistry
from unsee_server.replies_report import report_image_message
from unsee_server.requests import CancelWork, OnEnd, OnEvent, Rpc
from unsee_server.transfer import Assembly, pieces

if TYPE_CHECKING:  # these import torch, which takes longer than opening the ports may
    from unsee_core.engine import Engine
    from unsee_core.library import AdapterLibrary
    from unsee_core.methods import Method

P = ParamSpec("P")
R = TypeVar("R")
AnyJob = AuditJob | ComposeJob | EraseJob | GenerateJob
RETRY_S = 2.0


@dataclass(frozen=True)
class Backend:
    """What the calls work with, once the model is loaded."""

    engine: "Engine"
    methods: "Mapping[str, Method]"
    version: str


class UnseeService(service_pb2_grpc.UnseeServiceServicer):
    """Answers the calls of ``unsee.v1.UnseeService``.

    Whatever reads the store or decodes pictures runs in threads of its own, so that the event loop never waits; work
    for the device goes to the engine's thread.

    Args:
        requests: what can be attached to.

    Attributes:
        backend: None while the model is being loaded; every call is UNAVAILABLE until then.
        active: calls that are being answered.
    """

    def __init__(self, requests: RequestRegistry) -> None:
        self.backend: Backend | None = None
        self.active = 0
        self._requests = requests
        self._is_draining = False
        self._submitters = ThreadPoolExecutor(2, "unsee-submit")
        self._readers = ThreadPoolExecutor(8, "unsee-store")

    @asynccontextmanager
    async def guard(self, call: Call) -> AsyncIterator[None]:
        """Let the call pass if the server is ready for it.

        Raises:
            ShuttingDownError: the server takes no new calls.
            LoadingError: the model is being loaded.
        """
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down", retry_delay_s=RETRY_S)
        if self.backend is None:
            raise LoadingError("the model is being loaded", retry_delay_s=RETRY_S)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def refuse_calls(self) -> None:
        """Answer every call from now on with ShuttingDownError."""
        self._is_draining = True

    def close(self) -> None:
        """End the threads."""
        self._submitters.shutdown()
        self._readers.shutdown()

    async def Erase(  # noqa: N802
        self, request: erase_pb2.EraseRequest, context: object
    ) -> AsyncIterator[erase_pb2.EraseResponse]:
        """Erase a concept."""
        to_job = partial(convert.erase_job, request, default_method=self._ready.engine.default_method)
        async with aclosing(self._stream("Erase", request, to_job)) as events:
            async for request_id, event in events:
                yield replies.erase_response(event, request_id)

    async def ComposeAdapters(  # noqa: N802
        self, request: compose_pb2.ComposeAdaptersRequest, context: object
    ) -> AsyncIterator[compose_pb2.ComposeAdaptersResponse]:
        """Erase with one adapter what many erase."""
        to_job = partial(convert.compose_job, request)
        async with aclosing(self._stream("ComposeAdapters", request, to_job)) as events:
            async for request_id, event in events:
                yield replies.compose_response(event, request_id)

    async def AuditAdapter(  # noqa: N802
        self, request: audit_pb2.AuditAdapterRequest, context: object
    ) -> AsyncIterator[audit_pb2.AuditAdapterResponse]:
        """Try to bring back what an adapter erases."""
        to_job = partial(convert_audit.audit_job, request)
        async with aclosing(self._stream("AuditAdapter", request, to_job)) as events:
            async for request_id, event in events:
                yield replies_audit.audit_response(event, request_id)

    async def Generate(  # noqa: N802
        self, request: generate_pb2.GenerateRequest, context: object
    ) -> AsyncIterator[generate_pb2.GenerateResponse]:
        """Draw images."""
        async with aclosing(self._stream("Generate", request, partial(convert.generate_job, request))) as events:
            async for request_id, event in events:
                yield replies.generate_response(event, request_id)

    async def Cancel(self, request: cancel_pb2.CancelRequest, context: object) -> cancel_pb2.CancelResponse:  # noqa: N802
        """Stop an Erase, a ComposeAdapters, an AuditAdapter or a Generate."""
        key = convert.request_key(request, current_call().caller)
        current_call().request_id = key.request_id
        self._requests.find(key).cancel()
        return cancel_pb2.CancelResponse()

    async def ListAdapters(  # noqa: N802
        self, request: adapters_pb2.ListAdaptersRequest, context: object
    ) -> adapters_pb2.ListAdaptersResponse:
        """List adapters."""
        query = convert_adapters.adapter_query(request)
        return replies.adapters_page(await self._read(self._library.list, query))

    async def GetAdapter(  # noqa: N802
        self, request: adapters_pb2.GetAdapterRequest, context: object
    ) -> adapters_pb2.GetAdapterResponse:
        """Describe an adapter."""
        manifest = await self._read(self._library.manifest, convert_adapters.adapter_of(request))
        audits = map(replies_audit.audit_report, manifest.audits)
        return adapters_pb2.GetAdapterResponse(adapter=replies.adapter(manifest), audits=audits)

    async def DeleteAdapter(  # noqa: N802
        self, request: adapters_pb2.DeleteAdapterRequest, context: object
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Delete an adapter."""
        await self._read(self._library.delete, convert_adapters.name_of(request))
        return adapters_pb2.DeleteAdapterResponse()

    async def GetReportImages(  # noqa: N802
        self, request: adapters_pb2.GetReportImagesRequest, context: object
    ) -> AsyncIterator[adapters_pb2.GetReportImagesResponse]:
        """Send the pictures that were kept with an adapter's report."""
        manifest = await self._read(self._library.manifest, convert_adapters.adapter_of(request))
        for kept in manifest.images:
            image = await self._read(self._library.report_image, kept)
            yield adapters_pb2.GetReportImagesResponse(image=report_image_message(image))

    async def DownloadAdapter(  # noqa: N802
        self, request: adapters_pb2.DownloadAdapterRequest, context: object
    ) -> AsyncIterator[adapters_pb2.DownloadAdapterResponse]:
        """Send an adapter's bytes."""
        layout = convert_adapters.download_format(request)
        manifest, data = await self._read(self._library.export, convert_adapters.adapter_of(request), layout)
        offset = convert_adapters.download_offset(request, len(data))
        yield replies.download_header(manifest.name, data, layout)
        for piece in pieces(data, offset):
            yield replies.download_chunk(piece)

    async def ImportAdapter(  # noqa: N802
        self, request_iterator: AsyncIterator[adapters_pb2.ImportAdapterRequest], context: object
    ) -> adapters_pb2.ImportAdapterResponse:
        """Store an adapter that was made elsewhere."""
        # 1. What is coming
        first = await anext(request_iterator, None)
        if first is None:
            raise InvalidRequestError.of("begin", "got an empty stream, allowed a begin and then chunks")
        begin = convert_adapters.import_begin(first, max_bytes=self._ready.engine.limits.max_adapter_bytes)
        if begin.name is not None and not begin.replace:
            await self._read(self._library.check_name_is_free, begin.name)
        # 2. The bytes
        assembly = Assembly(begin)
        async for request in request_iterator:
            assembly.add(convert_adapters.import_piece(request))
        data = await self._read(assembly.finish)
        # 3. Into the store
        manifest = await self._read(
            self._library.import_adapter,
            data,
            name=begin.name,
            replace=begin.replace,
            labels=begin.labels,
            concept=begin.concept,
        )
        return adapters_pb2.ImportAdapterResponse(adapter=replies.adapter(manifest))

    async def GetServerInfo(  # noqa: N802
        self, request: info_pb2.GetServerInfoRequest, context: object
    ) -> info_pb2.GetServerInfoResponse:
        """Tell model, limits and methods."""
        engine = self._ready.engine
        return info_pb2.GetServerInfoResponse(
            version=self._ready.version,
            model=replies.model_info(engine.pipeline),
            limits=replies.limits(engine.limits),
            default_method=engine.default_method,
            methods=[replies.method_info(method) for _, method in sorted(self._ready.methods.items())],
            schedulers=replies.schedulers(),
        )

    async def _stream(
        self, rpc: Rpc, request: convert.StreamRequest, to_job: Callable[[], AnyJob]
    ) -> AsyncGenerator[tuple[str, Event]]:
        """Yield the events of a request, new or known, each with the request's id."""
        # 1. Which request this is
        call = current_call()
        key = convert.request_key(request, call.caller)
        call.request_id = key.request_id
        # 2. Known work, or new work for the engine
        if convert.wants_attach(request):
            attached = self._requests.find(key, rpc)
        else:
            job = await self._read(to_job)
            fields = await self._read(convert.field_digests, request)
            attached = self._requests.open(key, rpc, fields, partial(self._submit, job))
        # 3. What happens
        async with aclosing(self._requests.follow(attached)) as events:
            async for event in events:
                yield key.request_id, event

    async def _submit(self, job: AnyJob, on_event: OnEvent, on_end: OnEnd) -> CancelWork:
        engine = self._ready.engine
        most = engine.limits.max_queue
        if engine.waiting >= most:  # the engine says so too, but only after it has decoded the pictures
            raise QueueFullError(f"{engine.waiting} requests are waiting, allowed {most}", retry_delay_s=RETRY_S)
        loop = asyncio.get_running_loop()
        ticket = await loop.run_in_executor(self._submitters, engine.submit, job, on_event, on_end)
        return ticket.cancel

    async def _read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, partial(function, *args, **kwargs))

    @property
    def _ready(self) -> Backend:
        if self.backend is None:
            raise LoadingError("the model is being loaded", retry_delay_s=RETRY_S)
        return self.backend

    @property
    def _library(self) -> "AdapterLibrary":
        return self._ready.engine.library

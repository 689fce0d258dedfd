"""The client for asyncio; the synchronous one runs it on an event loop of its own."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

import grpc
import grpc.aio

from unsee.adapters import AdapterInfo, adapter_info
from unsee.audit_reading import AuditFold, audit_report
from unsee.audits import AuditEvent, AuditReport, AuditResult
from unsee.bound import AsyncAdapter
from unsee.channel import Connection, PathInput
from unsee.errors import from_rpc
from unsee.events import GenerateResult, report_image
from unsee.images import ReportImage
from unsee.info import ServerInfo, server_info
from unsee.jobs import (
    AsyncEraseJob,
    AsyncGenerateJob,
    AsyncJob,
    EraseEvent,
    EraseFold,
    GenerateEvent,
    GenerateFold,
    finished,
    wait_to_retry,
)
from unsee.names import FORMATS, AdapterFormat
from unsee.options import (
    AuditOptions,
    ComposeOptions,
    ConnectOptions,
    EraseOptions,
    GenerateOptions,
    ImportOptions,
    ListOptions,
)
from unsee.requests import (
    audit_request,
    check_names,
    compose_request,
    erase_request,
    generate_request,
    list_request,
    wire,
)
from unsee.transfer import Download, check_format, upload
from unsee.v1 import adapters_pb2, audit_pb2, cancel_pb2, compose_pb2, erase_pb2, generate_pb2, info_pb2
from unsee.v1.service_pb2_grpc import UnseeServiceStub

if TYPE_CHECKING:
    from unsee.v1.service_pb2_grpc import UnseeServiceAsyncStub

E = TypeVar("E")
R = TypeVar("R")
AsyncAuditJob = AsyncJob[AuditEvent, AuditResult]


class AsyncClient:
    """A client for asyncio; use it as a context manager, within one event loop.

    Args:
        target: ``host:port`` of the server.
        timeout: seconds that a call other than erase and generate may take.
        options: credentials; see ``ConnectOptions``.

    Raises:
        InvalidArgumentError: the arguments do not go together.

    Example:
        >>> async with unsee.AsyncClient("127.0.0.1:50051") as client:
        ...     adapter = await client.erase("cat", images=["cat-1.png", "cat-2.png"])
        ...     result = await client.generate("a cat", adapters=[adapter.name])
    """

    def __init__(self, target: str, *, timeout: float = 60.0, **options: Unpack[ConnectOptions]) -> None:
        check_names(options, ConnectOptions)
        connection = Connection(target, **options)
        self._metadata = connection.metadata
        self._timeout = timeout
        self._channel = connection.open()
        self._stub = cast("UnseeServiceAsyncStub", UnseeServiceStub(self._channel))
        self._jobs: set[AsyncJob[Any, Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; work that still runs goes on at the server for a while, see ``attach``."""
        for job in list(self._jobs):
            await job.abandon()
        await self._channel.close()

    async def erase(
        self, concept: str, on_progress: Callable[[EraseEvent], None] | None = None, **options: Unpack[EraseOptions]
    ) -> AsyncAdapter:
        """Erase a concept and return its adapter; see ``EraseOptions``.

        Args:
            concept: its name, as it stands in prompts; "": what the images show, which are named where a word is clear.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. Whoever stops waiting cancels it.

        Example:
            >>> adapter = await client.erase("cat", images=["cat-1.png", "cat-2.png"], synonyms=["kitten"])
        """
        return await finished(self.start_erase(concept, **options), on_progress)

    def start_erase(self, concept: str, **options: Unpack[EraseOptions]) -> AsyncEraseJob["AsyncAdapter"]:
        """Start to erase a concept and return the work at once; see ``EraseOptions``.

        Example:
            >>> job = client.start_erase("cat", images=["cat-1.png"])
            >>> async for event in job:
            ...     print(event)
        """
        return self._erase_job(erase_request(concept, options))

    def attach(self, request_id: str) -> AsyncEraseJob["AsyncAdapter"]:
        """Follow an erasure that was started before, also from elsewhere by the same caller.

        Example:
            >>> adapter = await client.attach(request_id).result()
        """
        return self._erase_job(wire(erase_pb2.EraseRequest, request_id=request_id, attach=True))

    async def compose(
        self,
        adapters: Iterable[str],
        on_progress: Callable[[EraseEvent], None] | None = None,
        **options: Unpack[ComposeOptions],
    ) -> AsyncAdapter:
        """Erase with one adapter what many erase, and return it; see ``ComposeOptions``.

        Args:
            adapters: 2-64, by name or digest.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. Whoever stops waiting cancels it.

        Example:
            >>> adapter = await client.compose(["no-cat", "no-dog"], name="no-pets")
        """
        return await finished(self.start_compose(adapters, **options), on_progress)

    def start_compose(
        self, adapters: Iterable[str], **options: Unpack[ComposeOptions]
    ) -> AsyncEraseJob["AsyncAdapter"]:
        """Start to compose adapters and return the work at once; see ``ComposeOptions``.

        Example:
            >>> adapter = await client.start_compose(["no-cat", "no-dog"]).result()
        """
        return self._compose_job(compose_request(adapters, options))

    def attach_compose(self, request_id: str) -> AsyncEraseJob["AsyncAdapter"]:
        """Follow a composition that was started before.

        Example:
            >>> adapter = await client.attach_compose(request_id).result()
        """
        return self._compose_job(wire(compose_pb2.ComposeAdaptersRequest, request_id=request_id, attach=True))

    async def audit(
        self, adapter: str, on_progress: Callable[[AuditEvent], None] | None = None, **options: Unpack[AuditOptions]
    ) -> AuditResult:
        """Try to bring back what an adapter erases, and return how far each attack got; see ``AuditOptions``.

        The figures stay with the adapter; ``audits`` returns them again.

        Args:
            adapter: its name or digest.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. Whoever stops waiting cancels it.

        Example:
            >>> result = await client.audit("no-cat", images=["cat-1.png", "cat-2.png"])
            >>> result.report.recovered_by
            ('learned_tokens_1', 'learned_tokens_2', 'learned_tokens_5')
        """
        return await finished(self.start_audit(adapter, **options), on_progress)

    def start_audit(self, adapter: str, **options: Unpack[AuditOptions]) -> AsyncAuditJob:
        """Start to audit an adapter and return the work at once; see ``AuditOptions``.

        Example:
            >>> job = client.start_audit("no-cat")
            >>> async for event in job:
            ...     print(event)
        """
        return self._audit_job(audit_request(adapter, options))

    def attach_audit(self, request_id: str) -> AsyncAuditJob:
        """Follow an audit that was started before.

        Example:
            >>> result = await client.attach_audit(request_id).result()
        """
        return self._audit_job(wire(audit_pb2.AuditAdapterRequest, request_id=request_id, attach=True))

    async def audits(self, adapter: str) -> tuple[AuditReport, ...]:
        """Return what audits of an adapter found, the newest last; the server keeps up to 8.

        Raises:
            NotFoundError: there is no such adapter.

        Example:
            >>> (await client.audits("no-cat"))[-1].recovered_by
            ()
        """
        reply = await self._call(self._stub.GetAdapter, wire(adapters_pb2.GetAdapterRequest, adapter=adapter))
        return tuple(map(audit_report, reply.audits))

    async def generate(
        self,
        prompt: str,
        on_progress: Callable[[GenerateEvent], None] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """Draw pictures and return them; see ``GenerateOptions``.

        Example:
            >>> result = await client.generate("a cat", adapters=["no-cat", ("no-dog", 0.8)], seed=0, num_images=2)
            >>> result[0].save("cat.png")
        """
        return await finished(self.start_generate(prompt, **options), on_progress)

    def start_generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> AsyncGenerateJob:
        """Start to draw pictures and return the work at once; see ``GenerateOptions``.

        Example:
            >>> job = client.start_generate("a dog", num_images=4)
            >>> async for event in job:
            ...     if isinstance(event, unsee.GeneratedImage):
            ...         event.save(f"dog-{event.index}.png")
        """
        return self._generate_job(generate_request(prompt, options))

    def attach_generate(self, request_id: str) -> AsyncGenerateJob:
        """Follow a generation that was started before.

        Example:
            >>> result = await client.attach_generate(request_id).result()
        """
        return self._generate_job(wire(generate_pb2.GenerateRequest, request_id=request_id, attach=True))

    async def cancel(self, request_id: str) -> None:
        """Stop an erasure, a composition, an audit or a generation within one step; nothing happens if it has ended.

        Raises:
            NotFoundError: the server does not know the id.

        Example:
            >>> await client.cancel(job.request_id)
        """
        await self._call(self._stub.Cancel, wire(cancel_pb2.CancelRequest, request_id=request_id))

    async def list_adapters(self, **options: Unpack[ListOptions]) -> AsyncIterator[AsyncAdapter]:
        """Yield the adapters that meet all conditions, by name, page after page; see ``ListOptions``.

        Example:
            >>> names = [adapter.name async for adapter in client.list_adapters(concept="cat")]
        """
        request = list_request(options)
        while True:
            page = await self._call(self._stub.ListAdapters, request)
            for message in page.adapters:
                yield self._bound(adapter_info(message))
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_adapter(self, adapter: str) -> AsyncAdapter:
        """Return an adapter by name or digest.

        Raises:
            NotFoundError: there is none.

        Example:
            >>> (await client.get_adapter("no-cat")).report.empty_drift
            0.021
        """
        reply = await self._call(self._stub.GetAdapter, wire(adapters_pb2.GetAdapterRequest, adapter=adapter))
        return self._bound(adapter_info(reply.adapter))

    async def report_images(self, adapter: str) -> tuple[ReportImage, ...]:
        """Return the pictures that were kept with an adapter's report (``keep_images``); none where none were.

        Raises:
            NotFoundError: there is no such adapter.

        Example:
            >>> for i, image in enumerate(await client.report_images("no-cat")):
            ...     image.save(f"{i}.png")
        """
        request = wire(adapters_pb2.GetReportImagesRequest, adapter=adapter)
        try:
            replies = self._stub.GetReportImages(request, metadata=self._metadata, timeout=self._timeout)
            return tuple([report_image(reply.image) async for reply in replies])
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter by name; work that already uses it ends undisturbed.

        Raises:
            NotFoundError: there is none.

        Example:
            >>> await client.delete_adapter("no-cat")
        """
        await self._call(self._stub.DeleteAdapter, wire(adapters_pb2.DeleteAdapterRequest, name=name))

    async def import_adapter(self, source: PathInput | bytes, **options: Unpack[ImportOptions]) -> AsyncAdapter:
        """Store an adapter that was made elsewhere: diffusers', kohya's or peft's layout, told from its keys.

        Args:
            source: a safetensors file, its bytes, or a folder as peft writes it.
            options: see ``ImportOptions``.

        Raises:
            InvalidArgumentError: it cannot be read, or is no usable adapter.
            FailedPreconditionError: it belongs to a model with other shapes.

        Example:
            >>> adapter = await client.import_adapter("no-dog.safetensors", name="no-dog")
        """
        reply = await self._call(self._stub.ImportAdapter, upload(source, options))
        return self._bound(adapter_info(reply.adapter))

    async def download(self, adapter: str, format: AdapterFormat = "diffusers") -> bytes:
        """Return an adapter's bytes in a layout, checked; where the stream breaks, it goes on from there.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: the layout cannot hold it.
            DataLossError: the bytes differ from their digest.

        Example:
            >>> data = await client.download("no-cat", "kohya")
        """
        check_format(format)
        download, tries = Download(), 0
        while True:
            request = wire(
                adapters_pb2.DownloadAdapterRequest,
                adapter=adapter,
                format=FORMATS[format],
                offset=len(download.data),
            )
            try:
                async for part in self._stub.DownloadAdapter(request, metadata=self._metadata):
                    download.add(part)
            except grpc.aio.AioRpcError as error:
                tries += 1
                await wait_to_retry(from_rpc(error), tries)
            else:
                return download.finished()

    async def server_info(self) -> ServerInfo:
        """Return the server's model, its digests and limits, and the methods.

        Example:
            >>> (await client.server_info()).model.default_size
            64
        """
        return server_info(await self._call(self._stub.GetServerInfo, info_pb2.GetServerInfoRequest()))

    def _erase_job(self, request: erase_pb2.EraseRequest) -> AsyncEraseJob["AsyncAdapter"]:
        return self._followed(AsyncJob(self._opened(self._stub.Erase), request, EraseFold(self._bound), self.cancel))

    def _compose_job(self, request: compose_pb2.ComposeAdaptersRequest) -> AsyncEraseJob["AsyncAdapter"]:
        opened = self._opened(self._stub.ComposeAdapters)
        return self._followed(AsyncJob(opened, request, EraseFold(self._bound), self.cancel))

    def _audit_job(self, request: audit_pb2.AuditAdapterRequest) -> AsyncAuditJob:
        return self._followed(AsyncJob(self._opened(self._stub.AuditAdapter), request, AuditFold(), self.cancel))

    def _generate_job(self, request: generate_pb2.GenerateRequest) -> AsyncGenerateJob:
        return self._followed(AsyncJob(self._opened(self._stub.Generate), request, GenerateFold(), self.cancel))

    def _followed(self, job: AsyncJob[E, R]) -> AsyncJob[E, R]:
        self._jobs.add(job)
        job.when_over(self._jobs.discard)
        return job

    def _opened(self, method: Any) -> Callable[[Any], AsyncIterator[Any]]:
        return lambda request: method(request, metadata=self._metadata)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    def _bound(self, info: AdapterInfo) -> AsyncAdapter:
        return AsyncAdapter(**vars(info), _client=self)

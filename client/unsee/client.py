"""The synchronous client: the asyncio one, on an event loop in a thread of its own."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Self, TypeVar, Unpack

from unsee.adapters import AdapterInfo
from unsee.aio import AsyncClient
from unsee.audits import AuditEvent, AuditReport, AuditResult
from unsee.bound import Adapter
from unsee.channel import PathInput
from unsee.events import GenerateResult
from unsee.images import ReportImage
from unsee.info import ServerInfo
from unsee.jobs import AsyncJob, EraseEvent, GenerateEvent
from unsee.loop_thread import LoopThread
from unsee.names import AdapterFormat
from unsee.options import (
    AuditOptions,
    ComposeOptions,
    ConnectOptions,
    EraseOptions,
    GenerateOptions,
    ImportOptions,
    ListOptions,
)
from unsee.sync_jobs import Job, finished

EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
T = TypeVar("T")


AuditJob = Job[AuditEvent, AuditResult]
EraseJob = Job[EraseEvent, Adapter]
GenerateJob = Job[GenerateEvent, GenerateResult]


class Client:
    """A client; safe between threads, and a context manager. A process that was forked needs one of its own.

    Takes the arguments of ``AsyncClient``.

    Example:
        >>> with unsee.Client("127.0.0.1:50051") as client:
        ...     adapter = client.erase("cat", images=["cat-1.png", "cat-2.png"])
        ...     client.generate("a cat", adapters=[adapter.name])[0].save("cat.png")
    """

    def __init__(self, target: str, *, timeout: float = 60.0, **options: Unpack[ConnectOptions]) -> None:
        self._thread = LoopThread()
        self._run = self._thread.run
        try:
            self._async = self._run(_opened(target, timeout, options))
        except BaseException:
            self._thread.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; work that still runs goes on at the server for a while, see ``attach``."""
        if self._thread.is_usable:
            self._run(self._async.close())
            self._thread.stop()

    def erase(
        self,
        concept: str,
        on_progress: Callable[[EraseEvent], None] | None = None,
        **options: Unpack[EraseOptions],
    ) -> Adapter:
        """Erase a concept and return its adapter; see ``EraseOptions``.

        Args:
            concept: its name, as it stands in prompts; "": what the images show, which are named where a word is clear.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. An interrupt (Ctrl-C) cancels the work.

        Example:
            >>> adapter = client.erase("cat", images=["cat-1.png", "cat-2.png"], synonyms=["kitten"])
        """
        return finished(self.start_erase(concept, **options), on_progress)

    def start_erase(self, concept: str, **options: Unpack[EraseOptions]) -> EraseJob:
        """Start to erase a concept and return the work at once; see ``EraseOptions``.

        Example:
            >>> job = client.start_erase("cat", images=["cat-1.png"])
            >>> job.result(timeout=60)
        """
        return self._erase_job(lambda: self._async.start_erase(concept, **options))

    def attach(self, request_id: str) -> EraseJob:
        """Follow an erasure that was started before, also from elsewhere by the same caller.

        Example:
            >>> adapter = client.attach(request_id).result()
        """
        return self._erase_job(lambda: self._async.attach(request_id))

    def compose(
        self,
        adapters: Iterable[str],
        on_progress: Callable[[EraseEvent], None] | None = None,
        **options: Unpack[ComposeOptions],
    ) -> Adapter:
        """Erase with one adapter what many erase, and return it; see ``ComposeOptions``.

        Args:
            adapters: 2-64, by name or digest.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. An interrupt (Ctrl-C) cancels the work.

        Example:
            >>> adapter = client.compose(["no-cat", "no-dog"], name="no-pets")
        """
        return finished(self.start_compose(adapters, **options), on_progress)

    def start_compose(self, adapters: Iterable[str], **options: Unpack[ComposeOptions]) -> EraseJob:
        """Start to compose adapters and return the work at once; see ``ComposeOptions``.

        Example:
            >>> job = client.start_compose(["no-cat", "no-dog"])
            >>> job.result(timeout=60)
        """
        return self._erase_job(lambda: self._async.start_compose(adapters, **options))

    def attach_compose(self, request_id: str) -> EraseJob:
        """Follow a composition that was started before.

        Example:
            >>> adapter = client.attach_compose(request_id).result()
        """
        return self._erase_job(lambda: self._async.attach_compose(request_id))

    def audit(
        self, adapter: str, on_progress: Callable[[AuditEvent], None] | None = None, **options: Unpack[AuditOptions]
    ) -> AuditResult:
        """Try to bring back what an adapter erases, and return how far each attack got; see ``AuditOptions``.

        The figures stay with the adapter; ``audits`` returns them again.

        Args:
            adapter: its name or digest.
            on_progress: is called with every event.

        Raises:
            Error: what the work ended with. An interrupt (Ctrl-C) cancels the work.

        Example:
            >>> result = client.audit("no-cat", images=["cat-1.png", "cat-2.png"])
            >>> result.report.recovered_by
            ('learned_tokens_1', 'learned_tokens_2', 'learned_tokens_5')
        """
        return finished(self.start_audit(adapter, **options), on_progress)

    def start_audit(self, adapter: str, **options: Unpack[AuditOptions]) -> AuditJob:
        """Start to audit an adapter and return the work at once; see ``AuditOptions``.

        Example:
            >>> job = client.start_audit("no-cat")
            >>> for event in job:
            ...     print(event)
        """
        return self._audit_job(lambda: self._async.start_audit(adapter, **options))

    def attach_audit(self, request_id: str) -> AuditJob:
        """Follow an audit that was started before.

        Example:
            >>> result = client.attach_audit(request_id).result()
        """
        return self._audit_job(lambda: self._async.attach_audit(request_id))

    def audits(self, adapter: str) -> tuple[AuditReport, ...]:
        """Return what audits of an adapter found, the newest last; the server keeps up to 8.

        Raises:
            NotFoundError: there is no such adapter.

        Example:
            >>> client.audits("no-cat")[-1].recovered_by
            ()
        """
        return self._run(self._async.audits(adapter))

    def generate(
        self,
        prompt: str,
        on_progress: Callable[[GenerateEvent], None] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """Draw pictures and return them; see ``GenerateOptions``.

        Example:
            >>> for image in client.generate("a cat", adapters=["no-cat", ("no-dog", 0.8)], seed=0, num_images=2):
            ...     image.save(f"cat-{image.seed}.png")
        """
        return finished(self.start_generate(prompt, **options), on_progress)

    def start_generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> GenerateJob:
        """Start to draw pictures and return the work at once; see ``GenerateOptions``.

        Example:
            >>> job = client.start_generate("a dog", num_images=4)
            >>> for event in job:
            ...     print(event)
        """
        return self._generate_job(lambda: self._async.start_generate(prompt, **options))

    def attach_generate(self, request_id: str) -> GenerateJob:
        """Follow a generation that was started before.

        Example:
            >>> result = client.attach_generate(request_id).result()
        """
        return self._generate_job(lambda: self._async.attach_generate(request_id))

    def cancel(self, request_id: str) -> None:
        """Stop an erasure, a composition, an audit or a generation within one step; nothing happens if it has ended.

        Raises:
            NotFoundError: the server does not know the id.

        Example:
            >>> client.cancel(job.request_id)
        """
        self._run(self._async.cancel(request_id))

    def list_adapters(self, **options: Unpack[ListOptions]) -> Iterator[Adapter]:
        """Yield the adapters that meet all conditions, by name; see ``ListOptions``.

        Example:
            >>> [adapter.name for adapter in client.list_adapters(labels={"team": "legal"})]
            ['no-cat', 'no-dog']
        """
        adapters = self._async.list_adapters(**options)
        while (adapter := self._run(_next(adapters))) is not None:
            yield self._bound(adapter)

    def get_adapter(self, adapter: str) -> Adapter:
        """Return an adapter by name or digest.

        Raises:
            NotFoundError: there is none.

        Example:
            >>> client.get_adapter("no-cat").report.empty_drift
            0.021
        """
        return self._bound(self._run(self._async.get_adapter(adapter)))

    def report_images(self, adapter: str) -> tuple[ReportImage, ...]:
        """Return the pictures that were kept with an adapter's report (``keep_images``); none where none were.

        Raises:
            NotFoundError: there is no such adapter.

        Example:
            >>> [image.prompt for image in client.report_images("no-cat")][:2]
            ['a nice photo of a cat', 'a nice photo of a cat']
        """
        return self._run(self._async.report_images(adapter))

    def delete_adapter(self, name: str) -> None:
        """Delete an adapter by name; work that already uses it ends undisturbed.

        Raises:
            NotFoundError: there is none.

        Example:
            >>> client.delete_adapter("no-cat")
        """
        self._run(self._async.delete_adapter(name))

    def import_adapter(self, source: PathInput | bytes, **options: Unpack[ImportOptions]) -> Adapter:
        """Store an adapter that was made elsewhere; see ``ImportOptions``, and ``AsyncClient`` for errors.

        Example:
            >>> adapter = client.import_adapter("no-dog.safetensors", name="no-dog")
        """
        return self._bound(self._run(self._async.import_adapter(source, **options)))

    def download(self, adapter: str, format: AdapterFormat = "diffusers") -> bytes:
        """Return an adapter's bytes in a layout, checked; where the stream breaks, it goes on from there.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: the layout cannot hold it.
            DataLossError: the bytes differ from their digest.

        Example:
            >>> data = client.download("no-cat", "kohya")
        """
        return self._run(self._async.download(adapter, format))

    def server_info(self) -> ServerInfo:
        """Return the server's model, its digests and limits, and the methods.

        Example:
            >>> client.server_info().model.default_size
            64
        """
        return self._run(self._async.server_info())

    def _erase_job(self, start: Callable[[], AsyncJob[EraseEvent, Any]]) -> EraseJob:
        return Job(self._run(_started(start)), self._run, self._bound)

    def _audit_job(self, start: Callable[[], AsyncJob[AuditEvent, AuditResult]]) -> AuditJob:
        return Job(self._run(_started(start)), self._run, lambda result: result)

    def _generate_job(self, start: Callable[[], AsyncJob[GenerateEvent, GenerateResult]]) -> GenerateJob:
        return Job(self._run(_started(start)), self._run, lambda result: result)

    def _bound(self, info: AdapterInfo) -> Adapter:
        return Adapter(**{name: getattr(info, name) for name in AdapterInfo.__dataclass_fields__}, _client=self)


async def _opened(target: str, timeout: float, options: ConnectOptions) -> AsyncClient:  # noqa: ASYNC109 -- of calls
    return AsyncClient(target, timeout=timeout, **options)


async def _started(start: Callable[[], AsyncJob[EventT, ResultT]]) -> AsyncJob[EventT, ResultT]:
    return start()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)

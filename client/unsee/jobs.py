"""Work on the server as it is followed from here: its events, its end, and how it survives a broken stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import grpc
import grpc.aio

from unsee import adapters, events
from unsee.adapters import AdapterInfo
from unsee.errors import CancelledError, DeadlineExceededError, Error, InternalError, Status, from_rpc
from unsee.events import EraseProgress, GenerateProgress, GenerateResult, Queued
from unsee.images import GeneratedImage, ReportImage
from unsee.v1 import audit_pb2, compose_pb2, erase_pb2, generate_pb2

EraseEvent = Queued | EraseProgress | ReportImage | AdapterInfo
GenerateEvent = Queued | GenerateProgress | GeneratedImage | GenerateResult
AdapterT = TypeVar("AdapterT", bound=AdapterInfo)
RequestT = TypeVar(
    "RequestT",
    bound=erase_pb2.EraseRequest
    | compose_pb2.ComposeAdaptersRequest
    | audit_pb2.AuditAdapterRequest
    | generate_pb2.GenerateRequest,
)
ResponseT = TypeVar("ResponseT")
EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
ResponseT_contra = TypeVar("ResponseT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)

MAX_TRIES = 6


class Fold(Protocol[ResponseT_contra, EventT_co, ResultT_co]):
    """Turns a stream of messages into events and at last a result; the same message again adds nothing."""

    def add(self, response: ResponseT_contra) -> EventT_co | None:
        """Take the next message and return the event in it; None if it was known or is of a later version."""

    @property
    def result(self) -> ResultT_co | None:
        """What the stream ended with; None as long as it has not."""


class EraseFold(Generic[AdapterT]):
    """An erasure's or a composition's messages -> events and the adapter, bound to its client by ``bind``."""

    def __init__(self, bind: Callable[[AdapterInfo], AdapterT]) -> None:
        self.result: AdapterT | None = None
        self._bind = bind
        self._is_queued = False
        self._images: set[tuple[str, bool]] = set()

    def add(self, response: erase_pb2.EraseResponse | compose_pb2.ComposeAdaptersResponse) -> EraseEvent | None:
        """Take the next message."""
        kind = response.WhichOneof("event")
        if kind == "queued" and not self._is_queued:
            self._is_queued = True
            return Queued(response.queued.request_id, response.queued.position)
        if kind == "progress":
            return events.erase_progress(response.progress)
        if kind == "image" and isinstance(response, erase_pb2.EraseResponse):
            image = events.report_image(response.image)
            key = (image.prompt, image.with_adapter)
            is_known = key in self._images
            self._images.add(key)
            return None if is_known else image
        if kind == "completed":
            self.result = self._bind(adapters.adapter_info(response.completed.adapter))
            return self.result
        return None


class GenerateFold:
    """A generation's messages -> events and the result."""

    def __init__(self) -> None:
        self.result: GenerateResult | None = None
        self._is_queued = False
        self._images: dict[int, GeneratedImage] = {}

    def add(self, response: generate_pb2.GenerateResponse) -> GenerateEvent | None:
        """Take the next message."""
        kind = response.WhichOneof("event")
        if kind == "queued" and not self._is_queued:
            self._is_queued = True
            return Queued(response.queued.request_id, response.queued.position)
        if kind == "progress":
            return events.generate_progress(response.progress)
        if kind == "image" and response.image.index not in self._images:
            image = events.generated_image(response.image)
            self._images[image.index] = image
            return image
        if kind == "completed":
            images = tuple(self._images[i] for i in sorted(self._images))
            self.result = events.generate_result(response.completed, images)
            return self.result
        return None


class AsyncJob(Generic[EventT, ResultT]):
    """Work on the server, followed from its start in a task of the running event loop.

    Iterating gives its events from the first one on, any number of times. A broken stream is opened again with the same
    request, which the server answers by re-attaching; so is a refusal that says when to try again.

    Attributes:
        request_id: under which it can be attached to, also from elsewhere.

    Example:
        >>> job = client.start_generate("a dog")
        >>> async for event in job:
        ...     print(event)
        >>> result = await job.result()
    """

    def __init__(
        self,
        open_stream: Callable[[RequestT], AsyncIterator[ResponseT]],
        request: RequestT,
        fold: Fold[ResponseT, EventT, ResultT],
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self.request_id = request.request_id
        self._cancel = cancel
        self._events: list[EventT] = []
        self._is_over = False
        self._is_unwanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._follow(open_stream, request, fold))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio warns of it

    async def __aiter__(self) -> AsyncIterator[EventT]:
        position = 0
        while (event := await self.event(position)) is not None:
            yield event
            position += 1

    async def event(self, position: int) -> EventT | None:
        """Return the event at a position once it is there; None if the work ended before.

        Raises:
            Error: what the work ended with.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._events) > position or self._is_over)
        if position < len(self._events):
            return self._events[position]
        await self.result()
        return None

    async def result(self, timeout: float | None = None) -> ResultT:  # noqa: ASYNC109 -- the name callers know
        """Return what the work ended with.

        Args:
            timeout: seconds to wait; the work goes on when they have passed.

        Raises:
            DeadlineExceededError: it has not ended in time.
            Error: what it ended with; CancelledError also where it is followed no more.
        """
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        if not done:
            raise DeadlineExceededError(f"{self.request_id} has not ended within {timeout} s; it goes on")
        if self._task.cancelled():
            raise CancelledError(f"the client was closed before {self.request_id} ended; it can be attached to")
        return self._task.result()

    async def cancel(self) -> None:
        """Stop the work within one step; it then ends with CancelledError. Nothing happens if it has ended before."""
        self._is_unwanted.set()
        async with self._changed:  # before its first event the server may not know the id yet
            await self._changed.wait_for(lambda: self._events or self._is_over)
        if not self._is_over:
            await self._cancel(self.request_id)

    def when_over(self, action: "Callable[[AsyncJob[EventT, ResultT]], None]") -> None:
        """Call ``action`` with this job once the work is followed no more."""
        self._task.add_done_callback(lambda _: action(self))

    async def abandon(self) -> None:
        """Follow the work no more; it goes on until the server notices that nobody waits for it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(
        self,
        open_stream: Callable[[RequestT], AsyncIterator[ResponseT]],
        request: RequestT,
        fold: Fold[ResponseT, EventT, ResultT],
    ) -> ResultT:
        tries = 0
        try:
            while True:
                try:
                    async for response in open_stream(request):
                        tries = 0
                        await self._add(fold.add(response))
                except grpc.aio.AioRpcError as error:
                    tries += 1
                    await wait_to_retry(from_rpc(error), tries, self._is_unwanted)
                    if self._is_unwanted.is_set():
                        raise CancelledError(f"{self.request_id} was cancelled") from None
                else:
                    return _result_of(fold)
        finally:
            self._is_over = True
            await self._tell()

    async def _add(self, event: EventT | None) -> None:
        if event is not None:
            self._events.append(event)
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


AsyncEraseJob = AsyncJob[EraseEvent, AdapterT]
AsyncGenerateJob = AsyncJob[GenerateEvent, GenerateResult]


async def wait_to_retry(error: Error, tries: int, is_unwanted: asyncio.Event | None = None) -> None:
    """Return when it is time to try again: when the server said, or after a growing while; at once where unwanted.

    Raises:
        Error: trying again does not help, or was tried often enough.
    """
    can_help = error.status is Status.UNAVAILABLE or (
        error.status is Status.RESOURCE_EXHAUSTED and error.retry_delay_s is not None
    )
    if not can_help or tries >= MAX_TRIES:
        raise error
    delay = min(0.2 * 2**tries, 5.0) if error.retry_delay_s is None else error.retry_delay_s
    with suppress(TimeoutError):
        await asyncio.wait_for((is_unwanted or asyncio.Event()).wait(), delay)


async def finished(job: AsyncJob[EventT, ResultT], on_event: Callable[[EventT], None] | None) -> ResultT:
    """Return what the work ends with; where the waiting ends before, cancel it."""
    try:
        if on_event is not None:
            async for event in job:
                on_event(event)
        return await job.result()
    except BaseException:
        with suppress(Error):  # what ended the waiting is told, also where the server is gone
            await job.cancel()
        raise


def _result_of(fold: Fold[ResponseT, EventT, ResultT]) -> ResultT:
    if fold.result is None:
        raise InternalError("the stream ended without its last event")
    return fold.result

"""Running and ended requests by caller and id: re-attached to, answered again, cancelled when nobody waits any more."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from unsee_core.answers import EraseProgress, GenerateProgress, ImageReady, Queued
from unsee_core.errors import InvalidRequestError, NotFoundError
from unsee_core.lanes import Event

Rpc = Literal["Erase", "Generate"]
OnEvent = Callable[[Event], None]
OnEnd = Callable[[Exception | None], None]
CancelWork = Callable[[], None]
# Submits the job, from whatever thread it likes, and returns how to cancel it.
Submit = Callable[[OnEvent, OnEnd], Awaitable[CancelWork]]


@dataclass(frozen=True)
class RequestKey:
    """What names a request: ids are scoped to their caller.

    Attributes:
        is_own: the caller gave the id; the server drew it otherwise.
    """

    caller: str
    request_id: str
    is_own: bool


class Request:
    """One request from its acceptance until its result is forgotten; used on the event loop alone.

    Progress is kept as the latest only, so that a slow reader holds nothing up and skips what is outdated; all other
    events are kept, and every stream reads them at its own pace.

    Args:
        fields: a digest of each field of the request, to tell whether another request is the same.
    """

    def __init__(self, key: RequestKey, rpc: Rpc, fields: Mapping[str, str]) -> None:
        self.key = key
        self.rpc = rpc
        self.fields = fields
        self.streams = 0
        self.ended_at: float | None = None
        self.error: Exception | None = None
        self._kept: list[Event] = []
        self._progress: Event | None = None
        self._progress_at = 0  # how many kept events came before it
        self._changed = asyncio.Event()
        self._is_cancelled = False
        self._cancel: CancelWork | None = None
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def image_bytes(self) -> int:
        """Bytes of the images that are kept."""
        return sum(len(event.data) for event in self._kept if isinstance(event, ImageReady))

    def add(self, event: Event) -> None:
        """Take an event from the engine."""
        if isinstance(event, EraseProgress | GenerateProgress):
            self._progress, self._progress_at = event, len(self._kept)
            self._kept[0] = Queued(0)  # for those who come later
        else:
            self._kept.append(event)
        self._wake()

    def end(self, error: Exception | None) -> None:
        """Take the end from the engine; nothing comes after it."""
        self.ended_at = time.monotonic()
        self.error = error
        self._cancel = None
        self._wake()

    def started(self, cancel: CancelWork) -> None:
        """Take the way to cancel it; does so if that was asked for in the meantime."""
        if self.ended_at is None:
            self._cancel = cancel
        if self._is_cancelled:
            cancel()

    def cancel(self) -> None:
        """Ask for the work to stop; also before it was submitted, and after its end."""
        self._is_cancelled = True
        if self._cancel is not None:
            self._cancel()

    async def events(self) -> AsyncGenerator[Event]:
        """Yield what has happened and what happens, up to the end.

        Raises:
            Exception: what the request ended with.
        """
        position = 0
        seen: Event | None = None
        while True:
            progress = self._progress
            if progress is not None and progress is not seen and self._progress_at == position:
                seen = progress
                yield progress
            elif position < len(self._kept):
                position += 1
                yield self._kept[position - 1]
            elif self.ended_at is not None:
                if self.error is not None:
                    raise self.error
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class RequestRegistry:
    """All requests that can be attached to.

    Args:
        ttl_s: how long results are kept.
        reattach_s: how long a request with an id of the caller's own goes on when nobody reads its events.
        max_image_bytes: what the images of all kept results may take; the oldest results leave first.
        max_results: how many results are kept.
    """

    def __init__(self, *, ttl_s: float, reattach_s: float, max_image_bytes: int, max_results: int = 10_000) -> None:
        self._ttl_s = ttl_s
        self._reattach_s = reattach_s
        self._max_image_bytes = max_image_bytes
        self._max_results = max_results
        self._requests: dict[tuple[str, str], Request] = {}
        self._image_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return sum(request.ended_at is None for request in self._requests.values())

    def open(self, key: RequestKey, rpc: Rpc, fields: Mapping[str, str], submit: Submit) -> Request:
        """Return the request of this id, or a new one that is being submitted.

        One that ended in an error is begun anew.

        Raises:
            InvalidRequestError: the id belongs to another request; names the first field that differs.
        """
        known = self._requests.get((key.caller, key.request_id))
        if known is not None and known.error is None:
            _check_same(known, rpc, fields)
            return known
        if known is not None:
            self._forget(known)
        request = Request(key, rpc, fields)
        self._requests[key.caller, key.request_id] = request
        task = asyncio.create_task(self._start(request, submit), name=f"submit {key.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return request

    def find(self, key: RequestKey, rpc: Rpc | None = None) -> Request:
        """Return a known request, of this rpc if one is given.

        Raises:
            NotFoundError: none of the caller's requests has this id.
        """
        request = self._requests.get((key.caller, key.request_id))
        if request is None or rpc not in (None, request.rpc):
            kind = f"{rpc} " if rpc else "request "
            raise NotFoundError(f"request_id: no {kind}with the id {key.request_id!r}; it is unknown or was forgotten")
        return request

    async def follow(self, request: Request) -> AsyncGenerator[Event]:
        """Yield the request's events; when its last stream breaks off, cancel it, at once or after a while."""
        if request.streams == 0 and request.ended_at is None:
            self._expire_after(request, None)
        request.streams += 1
        try:
            async with aclosing(request.events()) as events:
                async for event in events:
                    yield event
        finally:
            request.streams -= 1
            if request.streams == 0 and request.ended_at is None:
                if request.key.is_own:
                    self._expire_after(request, self._reattach_s)
                else:
                    request.cancel()

    def close(self) -> None:
        """Forget everything, so that no timer is left."""
        for request in list(self._requests.values()):
            self._forget(request)

    async def _start(self, request: Request, submit: Submit) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: Event) -> None:
            loop.call_soon_threadsafe(request.add, event)

        def on_end(error: Exception | None) -> None:
            loop.call_soon_threadsafe(self._end, request, error)

        try:
            request.started(await submit(on_event, on_end))
        except Exception as error:  # noqa: BLE001 - whatever it is, the request's streams answer it
            self._end(request, error)

    def _end(self, request: Request, error: Exception | None) -> None:
        request.end(error)
        if error is not None:
            # Kept a moment only, for those who re-attach to learn of it.
            self._expire_after(request, self._reattach_s if request.key.is_own else 0)
            return
        self._expire_after(request, self._ttl_s)
        self._image_bytes += request.image_bytes
        self._make_room()

    def _make_room(self) -> None:
        ended = [r for r in self._requests.values() if r.ended_at is not None and r.error is None]
        ended.sort(key=lambda request: request.ended_at or 0.0)
        while ended and (len(ended) > self._max_results or self._image_bytes > self._max_image_bytes):
            self._forget(ended.pop(0))

    def _expire_after(self, request: Request, seconds: float | None) -> None:
        """Let the request expire after so long; None: not at all."""
        if request.expiry is not None:
            request.expiry.cancel()
            request.expiry = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            request.expiry = loop.call_later(seconds, self._expire, request)

    def _expire(self, request: Request) -> None:
        if request.ended_at is None:
            request.cancel()
        else:
            self._forget(request)

    def _forget(self, request: Request) -> None:
        self._expire_after(request, None)
        if self._requests.get((request.key.caller, request.key.request_id)) is request:
            del self._requests[request.key.caller, request.key.request_id]
            if request.ended_at is not None and request.error is None:
                self._image_bytes -= request.image_bytes


def _check_same(known: Request, rpc: Rpc, fields: Mapping[str, str]) -> None:
    if known.rpc != rpc:
        allowed = f"an id of its own: this one is that of an earlier {known.rpc}"
        raise InvalidRequestError.of("request_id", f"got {known.key.request_id!r}, allowed {allowed}")
    for name, digest in fields.items():
        if known.fields.get(name) != digest:
            allowed = f"what the earlier request with the id {known.key.request_id!r} had"
            raise InvalidRequestError.of(name, f"got another value, allowed {allowed}")

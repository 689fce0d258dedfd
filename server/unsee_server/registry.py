"""All requests by caller and id: found again, answered again, cancelled when nobody waits any more."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from unsee_core.errors import InvalidRequestError, NotFoundError
from unsee_core.lanes import Event
from unsee_server.requests import Request, RequestKey, Rpc, Submit


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

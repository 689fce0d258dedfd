"""One running or ended request: its events from the first one on, for any number of streams."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from unsee_core.answers import EraseProgress, GenerateProgress, ImageReady, Queued, ReportImage
from unsee_core.audit.answers import AuditPicture, AuditProgress
from unsee_core.lanes import Event

Rpc = Literal["Erase", "ComposeAdapters", "AuditAdapter", "Generate"]
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
        drawn = sum(len(event.data) for event in self._kept if isinstance(event, ImageReady | AuditPicture))
        return drawn + sum(len(event.png) for event in self._kept if isinstance(event, ReportImage))

    def add(self, event: Event) -> None:
        """Take an event from the engine."""
        if isinstance(event, EraseProgress | GenerateProgress | AuditProgress):
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

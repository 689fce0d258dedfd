"""Jobs on their way through the engine: a ticket each, waiting or running in the lane of their kind."""

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from unsee_core.answers import EraseEvent, GenerateEvent
from unsee_core.audit.answers import AuditEvent

Kind = Literal["erase", "compose", "audit", "generate"]
Event = EraseEvent | GenerateEvent | AuditEvent
Work = TypeVar("Work")


class EditWork(Protocol):
    """Work that is done step by step: an edit of the model, or a look at one."""

    is_done: bool

    def step(self) -> Event:
        """Do one step and return what it led to; sets ``is_done`` with the last one."""


class Ticket(Generic[Work]):
    """A submitted job, from its submission to its end.

    Attributes:
        images: pictures it has in flight while it runs; 0 for an erasure.
        accepted: when it was submitted, in ``perf_counter`` seconds.
        started: when it began to run; None while it waits.
    """

    def __init__(
        self,
        start: Callable[[float], Work],
        *,
        images: int,
        on_event: Callable[[Event], None],
        on_end: Callable[[Exception | None], None],
        wake: Callable[[], None],
    ) -> None:
        self.images = images
        self.on_event = on_event
        self.on_end = on_end
        self.accepted = time.perf_counter()
        self.started: float | None = None
        self.is_cancelled = False
        self._start = start
        self._wake = wake
        self._work: Work | None = None

    def cancel(self) -> None:
        """Ask for the job to stop within one step; from any thread, any number of times, also after its end."""
        self.is_cancelled = True
        self._wake()

    @property
    def work(self) -> Work:
        """What is being done for it; begun when first asked for, on the engine's thread."""
        if self._work is None:
            self._work = self._start(self.accepted)
        return self._work

    def seconds(self) -> tuple[float, float]:
        """Return the seconds since the submission, and how many of them it waited."""
        now = time.perf_counter()
        return now - self.accepted, (self.started or now) - self.accepted

    def close(self) -> None:
        """Let go of the work; an erasure's generator is closed by that."""
        self._work = None


class Lane(Generic[Work]):
    """The jobs of one kind, first come first served; changed only under the engine's lock."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.waiting: deque[Ticket[Work]] = deque()
        self.running: list[Ticket[Work]] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def cancelled(self) -> list[Ticket[Work]]:
        """Return the tickets whose jobs are to stop."""
        return [ticket for ticket in (*self.waiting, *self.running) if ticket.is_cancelled]

    def admit(self) -> None:
        """Let the first one that waits run."""
        ticket = self.waiting.popleft()
        ticket.started = time.perf_counter()
        self.running.append(ticket)

    def remove(self, ticket: Ticket[Work]) -> None:
        """Forget a ticket, wherever it is."""
        (self.running if ticket in self.running else self.waiting).remove(ticket)

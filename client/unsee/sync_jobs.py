"""Work on the server, followed by the synchronous client."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from unsee.adapters import AdapterInfo
from unsee.errors import Error
from unsee.jobs import AsyncJob

EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")


class Job(Generic[EventT, ResultT]):
    """Work on the server, started and followed in the background.

    Iterating gives its events from the first one on, any number of times, from any thread.

    Attributes:
        request_id: under which it can be attached to, also from elsewhere.

    Example:
        >>> job = client.start_erase("cat", images=["cat-1.png"])
        >>> for event in job:
        ...     print(event)
        >>> adapter = job.result()
    """

    def __init__(
        self,
        job: AsyncJob[EventT, Any],
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        bind: Callable[[Any], Any],
    ) -> None:
        self.request_id = job.request_id
        self._job = job
        self._run = run
        self._bind = bind

    def __iter__(self) -> Iterator[EventT]:
        position = 0
        while (event := self._run(self._job.event(position))) is not None:
            yield self._bind(event) if isinstance(event, AdapterInfo) else event
            position += 1

    def result(self, timeout: float | None = None) -> ResultT:
        """Return what the work ended with.

        Args:
            timeout: seconds to wait; the work goes on when they have passed.

        Raises:
            DeadlineExceededError: it has not ended in time.
            Error: what it ended with.
        """
        result: ResultT = self._bind(self._run(self._job.result(timeout)))
        return result

    def cancel(self) -> None:
        """Stop the work within one step; it then ends with CancelledError. Nothing happens if it has ended before."""
        self._run(self._job.cancel())


def finished(job: Job[EventT, ResultT], on_event: Callable[[EventT], None] | None) -> ResultT:
    """Return what the work ends with; where the waiting ends before, cancel it."""
    try:
        if on_event is not None:
            for event in job:
                on_event(event)
        return job.result()
    except BaseException:
        with suppress(Error):  # what ended the waiting is told, also where the server is gone
            job.cancel()
        raise

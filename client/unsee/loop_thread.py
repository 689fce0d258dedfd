"""An event loop in a thread of its own, on which other threads run coroutines."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for any thread of the process that made it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unsee-client", daemon=True)
        self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Whether it runs, and belongs to this process."""
        return not self._loop.is_closed() and self._process == os.getpid()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns.

        Raises:
            RuntimeError: the client was closed, or belongs to the process that this one was forked from.
        """
        if not self.is_usable:
            work.close()
            why = "is closed" if self._loop.is_closed() else "belongs to the process that this one was forked from"
            raise RuntimeError(f"the client {why}")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("the client was closed before the call ended") from None
        except BaseException:
            future.cancel()  # an interrupt in this thread; what has ended is not touched
            raise

    def stop(self) -> None:
        """End the calls of other threads, and the thread."""
        self.run(_end_all_calls())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all_calls() -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

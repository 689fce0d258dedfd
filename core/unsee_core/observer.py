"""What an engine tells of itself while it works; metrics listen."""

from typing import Literal, Protocol

from unsee_core.lanes import Kind

Outcome = Literal["ok", "cancelled", "error"]


class Observer(Protocol):
    """Is told what the engine does; every call returns at once and never raises."""

    def on_queue(self, waiting: int, running: int) -> None:
        """Jobs that wait and run have changed."""

    def on_batch(self, rows: int) -> None:
        """A denoising step was done for so many images."""

    def on_step(self, kind: Kind) -> None:
        """A step of a job was done."""

    def on_done(self, kind: Kind, seconds: float, queue_seconds: float, outcome: Outcome) -> None:
        """A job has ended, so many seconds after it was submitted."""

    def on_adapter_load(self) -> None:
        """An adapter was read from the store into memory."""

    def on_cache(self, hits: int, misses: int) -> None:
        """So many prompts were found, or not, in the embedding cache since the start."""

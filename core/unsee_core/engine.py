"""Owns the device: one thread that admits jobs, turns over their steps, cancels, and reports.

Every turn advances each running edit by one step and all running generations by one denoising step, so that none waits
behind another. Weights of the resident model are never written.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from unsee_core.admission import Admission
from unsee_core.answers import Queued
from unsee_core.audit.job import AuditJob
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import denoise_step
from unsee_core.errors import (
    CancelledError,
    OutOfMemoryError,
    QueueFullError,
    ShuttingDownError,
    UnseeError,
)
from unsee_core.job import ComposeJob, EraseJob, GenerateJob, Limits
from unsee_core.lanes import EditWork, Event, Kind, Lane, Ticket
from unsee_core.library import AdapterLibrary
from unsee_core.methods import DEFAULT_METHOD
from unsee_core.observer import Observer, Outcome
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore
from unsee_core.work import GenerateWork

_EDITS: tuple[Kind, ...] = ("erase", "compose", "audit")
W = TypeVar("W")
R = TypeVar("R")
logger = logging.getLogger(__name__)


class Engine:
    """Runs jobs on one device.

    Args:
        pipeline: the resident model; read only.
        store: where adapters are kept.
        default_method: of an erasure that names none.
        detector: folder of a CLIPModel that the method "reward" minimises; None: the model itself detects.
        observer: is told of queue, batches, steps and ends.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: AdapterStore,
        *,
        limits: Limits | None = None,
        default_method: str = DEFAULT_METHOD,
        detector: Path | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.limits = limits or Limits()
        self.default_method = default_method
        on_load = observer.on_adapter_load if observer else None
        self.library = AdapterLibrary(pipeline, store, max_adapter_bytes=self.limits.max_adapter_bytes, on_load=on_load)
        self._admission = Admission(pipeline, self.library, self.limits, default_method, detector)
        self._conditioner = Conditioner(pipeline)
        self._observer = observer
        self._edits: dict[Kind, Lane[EditWork]] = {kind: Lane(kind) for kind in _EDITS}
        self._generates: Lane[GenerateWork] = Lane("generate")
        self._changed = threading.Condition()
        self._is_draining = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="unsee-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True as long as the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs that wait for the device."""
        return sum(len(lane.waiting) for lane in self._lanes)

    @property
    def running(self) -> int:
        """Jobs that are being worked on."""
        return sum(len(lane.running) for lane in self._lanes)

    def submit(
        self,
        job: EraseJob | ComposeJob | AuditJob | GenerateJob,
        on_event: Callable[[Event], None],
        on_end: Callable[[Exception | None], None],
    ) -> Ticket[EditWork] | Ticket[GenerateWork]:
        """Check a job, put it into the queue, and return its ticket.

        ``on_event`` gets Queued from this thread before ``submit`` returns, and everything else from the engine's
        thread; ``on_end`` is called once, last: with None after success, else with what went wrong. Neither may block.

        Raises:
            InvalidRequestError: a field does not fit the model, the method or the limits.
            NotFoundError: an adapter is unknown.
            BaseMismatchError: an adapter belongs to a model with other shapes.
            AlreadyExistsError: the adapter's name is taken.
            QueueFullError: too much is waiting.
            ShuttingDownError: the engine takes nothing any more.
        """
        if isinstance(job, GenerateJob):
            start = self._admission.generate(job, self._conditioner)
            generate = Ticket(start, images=job.num_images, on_event=on_event, on_end=on_end, wake=self._wake)
            return self._enqueue(self._generates, generate)
        kind, begin = self._edit(job)
        edit = Ticket(begin, images=0, on_event=on_event, on_end=on_end, wake=self._wake)
        return self._enqueue(self._edits[kind], edit)

    def drain(self, grace_s: float) -> bool:
        """Take nothing new and wait until all jobs have ended; return False if ``grace_s`` passed before."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: not self.waiting and not self.running, grace_s)

    def close(self) -> None:
        """Cancel what is left and end the engine's thread."""
        with self._changed:
            self._is_draining = self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _edit(self, job: EraseJob | ComposeJob | AuditJob) -> tuple[Kind, Callable[[float], EditWork]]:
        if isinstance(job, AuditJob):
            return "audit", self._admission.audit(job)
        if isinstance(job, ComposeJob):
            return "compose", self._admission.compose(job)
        return "erase", self._admission.erase(job)

    def _enqueue(self, lane: Lane[W], ticket: Ticket[W]) -> Ticket[W]:
        most = self.limits.max_queue
        with self._changed:
            if self._is_draining:
                raise ShuttingDownError("the server is shutting down", retry_delay_s=5.0)
            if self.waiting >= most:
                raise QueueFullError(f"{most} requests are waiting, allowed {most}", retry_delay_s=2.0)
            ticket.on_event(Queued(len(lane)))
            lane.waiting.append(ticket)
            self._tell_queue()
            self._changed.notify_all()
        return ticket

    @property
    def _lanes(self) -> tuple[Lane[Any], ...]:
        return (*self._edits.values(), self._generates)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _tell_queue(self) -> None:
        if self._observer:
            self._observer.on_queue(self.waiting, self.running)

    # What follows runs on the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                for lane in self._lanes:
                    self._drop_cancelled(lane)
                self._admit()
                for edits in self._edits.values():
                    self._step_edit(edits)
                self._step_generates()
        finally:
            self._is_draining = True
            for lane in self._lanes:
                self._drop_all(lane)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self.waiting or self.running)
            return not self._is_closed

    def _drop_cancelled(self, lane: Lane[W]) -> None:
        for ticket in lane.cancelled():
            self._end(lane, ticket, CancelledError("the request was cancelled"))

    def _drop_all(self, lane: Lane[W]) -> None:
        for ticket in (*lane.waiting, *lane.running):
            self._end(lane, ticket, ShuttingDownError("the server is shutting down", retry_delay_s=5.0))

    def _admit(self) -> None:
        """Let one edit of each kind run, and generations while their images fit into a batch."""
        generates = self._generates
        with self._changed:
            for lane in self._edits.values():
                if lane.waiting and not lane.running:
                    lane.admit()
            while generates.waiting and self._fits(generates.waiting[0]):
                generates.admit()
            self._tell_queue()

    def _fits(self, ticket: Ticket[GenerateWork]) -> bool:
        in_flight = sum(running.images for running in self._generates.running)
        return in_flight == 0 or in_flight + ticket.images <= self.limits.max_batch

    def _step_edit(self, lane: Lane[EditWork]) -> None:
        for ticket in list(lane.running):
            event = self._attempt(lane, ticket, _next_step)
            if event is None:
                continue
            ticket.on_event(event)
            self._tell_step(lane.kind)
            if ticket.work.is_done:
                self._end(lane, ticket, None)

    def _step_generates(self) -> None:
        lane = self._generates
        for ticket in list(lane.running):
            self._attempt(lane, ticket, _begun)
        denoising = [t for t in lane.running if not t.work.run.done]
        if denoising:
            self._denoise(denoising)
        for ticket in [t for t in lane.running if t not in denoising]:
            self._decode(ticket)

    def _denoise(self, tickets: list[Ticket[GenerateWork]]) -> None:
        """Do one denoising step of all; where the memory does not suffice for all at once, one after the other."""
        try:
            denoise_step(self.pipeline, [t.work.run for t in tickets], max_batch=self.limits.max_batch)
        except torch.OutOfMemoryError:
            _free_memory(self.pipeline.device)
            for ticket in tickets:
                self._attempt(self._generates, ticket, self._denoise_alone)
        except Exception as error:
            logger.exception("a denoising step failed")
            for ticket in tickets:
                self._end(self._generates, ticket, error)
        if self._observer:
            self._observer.on_batch(sum(t.images for t in tickets))
            self._observer.on_cache(self._conditioner.cache_hits, self._conditioner.cache_misses)
        for ticket in [t for t in tickets if t in self._generates.running]:
            ticket.on_event(ticket.work.progress())
            self._tell_step("generate")

    def _denoise_alone(self, work: GenerateWork) -> None:
        denoise_step(self.pipeline, [work.run], max_batch=1)

    def _decode(self, ticket: Ticket[GenerateWork]) -> None:
        lane = self._generates
        image = self._attempt(lane, ticket, GenerateWork.next_image)
        if image is None:
            return
        ticket.on_event(image)
        if image.index == ticket.images - 1:
            ticket.on_event(ticket.work.completed())
            self._end(lane, ticket, None)

    def _attempt(self, lane: Lane[W], ticket: Ticket[W], step: Callable[[W], R]) -> R | None:
        """Return what ``step`` makes of the ticket's work; where it raises, end the ticket with it and return None."""
        try:
            return step(ticket.work)
        except torch.OutOfMemoryError as error:
            _free_memory(self.pipeline.device)
            message = "the device's memory does not suffice; ask for fewer or smaller images"
            logger.warning("out of memory in %s: %s", lane.kind, error)
            self._end(lane, ticket, OutOfMemoryError(message, retry_delay_s=5.0))
        except UnseeError as error:
            self._end(lane, ticket, error)
        except Exception as error:
            logger.exception("a step of %s failed", lane.kind)
            self._end(lane, ticket, error)
        return None

    def _end(self, lane: Lane[W], ticket: Ticket[W], error: Exception | None) -> None:
        with self._changed:
            lane.remove(ticket)
            self._tell_queue()
            self._changed.notify_all()
        ticket.close()
        if self._observer:
            self._observer.on_done(lane.kind, *ticket.seconds(), _outcome(error))
        ticket.on_end(error)

    def _tell_step(self, kind: Kind) -> None:
        if self._observer:
            self._observer.on_step(kind)


def _next_step(work: EditWork) -> Event:
    return work.step()


def _begun(work: GenerateWork) -> GenerateWork:
    return work


def _outcome(error: Exception | None) -> Outcome:
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, CancelledError) else "error"


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()

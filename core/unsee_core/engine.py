"""Owns the device: one thread that admits jobs, turns over their steps, cancels, and reports.

Every turn advances the running erasure by one step and all running generations by one denoising step, so that neither
waits behind the other. Weights of the resident model are never written.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

import torch

from unsee_core.answers import EraseCompleted, Queued
from unsee_core.checks import check_range
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import denoise_step
from unsee_core.errors import (
    AlreadyExistsError,
    CancelledError,
    InvalidRequestError,
    NotFoundError,
    OutOfMemoryError,
    QueueFullError,
    ShuttingDownError,
    UnseeError,
)
from unsee_core.images import open_image
from unsee_core.job import EraseJob, GenerateJob, Limits
from unsee_core.lanes import Event, Kind, Lane, Ticket
from unsee_core.library import AdapterLibrary
from unsee_core.methods import DEFAULT_METHOD, check_job
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore
from unsee_core.work import EraseWork, GenerateTask, GenerateWork

Outcome = Literal["ok", "cancelled", "error"]
W = TypeVar("W")
R = TypeVar("R")
logger = logging.getLogger(__name__)


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


class Engine:
    """Runs jobs on one device.

    Args:
        pipeline: the resident model; read only.
        store: where adapters are kept.
        default_method: of an erasure that names none.
        observer: is told of queue, batches, steps and ends.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: AdapterStore,
        *,
        limits: Limits | None = None,
        default_method: str = DEFAULT_METHOD,
        observer: Observer | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.limits = limits or Limits()
        self.default_method = default_method
        on_load = observer.on_adapter_load if observer else None
        self.library = AdapterLibrary(pipeline, store, max_adapter_bytes=self.limits.max_adapter_bytes, on_load=on_load)
        self._conditioner = Conditioner(pipeline)
        self._observer = observer
        self._erases: Lane[EraseWork] = Lane("erase")
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
        return len(self._erases.waiting) + len(self._generates.waiting)

    @property
    def running(self) -> int:
        """Jobs that are being worked on."""
        return len(self._erases.running) + len(self._generates.running)

    def submit(
        self,
        job: EraseJob | GenerateJob,
        on_event: Callable[[Event], None],
        on_end: Callable[[Exception | None], None],
    ) -> Ticket[EraseWork] | Ticket[GenerateWork]:
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
        if isinstance(job, EraseJob):
            erase = Ticket(self._erase_start(job), images=0, on_event=on_event, on_end=on_end, wake=self._wake)
            return self._enqueue(self._erases, erase)
        start = self._generate_start(job)
        generate = Ticket(start, images=job.num_images, on_event=on_event, on_end=on_end, wake=self._wake)
        return self._enqueue(self._generates, generate)

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

    def _erase_start(self, job: EraseJob) -> Callable[[float], EraseWork]:
        check_range("images", len(job.images), 0, self.limits.max_erase_images)
        job = replace(job, method=job.method or self.default_method)
        settings = check_job(job, self.pipeline)
        images = [open_image(data, f"images[{i}]", self.limits) for i, data in enumerate(job.images)]
        if job.adapter_name is not None and not job.replace:
            self._check_is_free(job.adapter_name)
        return lambda _: EraseWork(self.pipeline, self.library, job, images, settings)

    def _generate_start(self, job: GenerateJob) -> Callable[[float], GenerateWork]:
        job = self._filled_in(job)
        loaded = [self.library.load(ref) for ref in job.adapters]
        task = GenerateTask(job, tuple(a for a, _ in loaded), tuple(r for _, r in loaded))
        for i, resolved in enumerate(task.resolved):
            if resolved.digest in {r.digest for r in task.resolved[:i]}:
                raise InvalidRequestError.of(f"adapters[{i}]", f"got {resolved.digest} again, allowed once each")
        return lambda accepted: GenerateWork(self.pipeline, self._conditioner, task, accepted=accepted)

    def _filled_in(self, job: GenerateJob) -> GenerateJob:
        """Return the job with the model's defaults, after checking it against model and limits."""
        model, limits = self.pipeline, self.limits
        width, height = job.width or model.default_size, job.height or model.default_size
        check_range("steps", job.steps, 1, limits.max_steps)
        check_range("num_images", job.num_images, 1, limits.max_num_images)
        for name, size in (("width", width), ("height", height)):
            if size % model.size_multiple or not 0 < size <= limits.max_size:
                allowed = f"multiples of {model.size_multiple} up to {limits.max_size}"
                raise InvalidRequestError.of(name, f"got {size}, allowed {allowed}")
        guidance = model.default_guidance_scale if job.guidance_scale is None else job.guidance_scale
        return replace(job, width=width, height=height, guidance_scale=guidance)

    def _check_is_free(self, name: str) -> None:
        try:
            taken = self.library.manifest(name)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"adapter_name: {name!r} is taken by {taken.digest}; set replace to overwrite it")

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
                self._drop_cancelled(self._erases)
                self._drop_cancelled(self._generates)
                self._admit()
                self._step_erase()
                self._step_generates()
        finally:
            self._is_draining = True
            self._drop_all(self._erases)
            self._drop_all(self._generates)

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
        """Let one erasure run, and generations while their images fit into a batch."""
        erases, generates = self._erases, self._generates
        with self._changed:
            if erases.waiting and not erases.running:
                erases.admit()
            while generates.waiting and self._fits(generates.waiting[0]):
                generates.admit()
            self._tell_queue()

    def _fits(self, ticket: Ticket[GenerateWork]) -> bool:
        in_flight = sum(running.images for running in self._generates.running)
        return in_flight == 0 or in_flight + ticket.images <= self.limits.max_batch

    def _step_erase(self) -> None:
        for ticket in list(self._erases.running):
            event = self._attempt(self._erases, ticket, EraseWork.step)
            if event is None:
                continue
            ticket.on_event(event)
            self._tell_step("erase")
            if isinstance(event, EraseCompleted):
                self._end(self._erases, ticket, None)

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


def _begun(work: GenerateWork) -> GenerateWork:
    return work


def _outcome(error: Exception | None) -> Outcome:
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, CancelledError) else "error"


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""Metrics in base units on their own HTTP port; no concept, prompt or adapter name is ever a label."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from unsee_core.lanes import Kind
from unsee_core.observer import Outcome
from unsee_server.calls import SERVICE, Call

_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 120, 300, 600)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_CALL = ("grpc_type", "grpc_service", "grpc_method")


class CallMetrics:
    """Counts calls, under the names that gRPC's Prometheus middlewares share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "Calls started.", _CALL, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended.", (*_CALL, "grpc_code"), registry=registry)
        self._received = Counter("grpc_server_msg_received", "Messages received.", _CALL, registry=registry)
        self._sent = Counter("grpc_server_msg_sent", "Messages sent.", _CALL, registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Seconds per call.", _CALL, buckets=_CALL_BUCKETS, registry=registry
        )

    @asynccontextmanager
    async def guard(self, call: Call) -> AsyncIterator[None]:
        """Count the call and its messages, and time it."""
        labels = (call.type, SERVICE, call.method)
        began = time.perf_counter()
        self._started.labels(*labels).inc()
        code = grpc.StatusCode.OK
        try:
            yield
        except BaseException as error:
            code = code_of(call, error)
            raise
        finally:
            self._handled.labels(*labels, code.name).inc()
            self._received.labels(*labels).inc(call.received)
            self._sent.labels(*labels).inc(call.sent)
            self._seconds.labels(*labels).observe(time.perf_counter() - began)


def code_of(call: Call, error: BaseException) -> grpc.StatusCode:
    """Return the status that a call ends with whose handler raised ``error``."""
    if isinstance(error, asyncio.CancelledError):
        left = call.context.time_remaining()
        is_late = left is not None and left <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
    code = call.context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


class EngineMetrics:
    """Observes the engine; see ``unsee_core.observer.Observer``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting = Gauge("unsee_requests_waiting", "Requests that wait for the device.", registry=registry)
        self._running = Gauge("unsee_requests_running", "Requests that the device works on.", registry=registry)
        self._batch = Histogram(
            "unsee_batch_images", "Images of a denoising step.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self._steps = Counter(
            "unsee_steps", "Steps of erasures, compositions, audits and generations.", ("kind",), registry=registry
        )
        self._seconds = {
            "erase": self._job_histogram("unsee_erase_seconds", "Seconds per erasure, its wait included.", registry),
            "compose": self._job_histogram(
                "unsee_compose_seconds", "Seconds per composition, its wait included.", registry
            ),
            "audit": self._job_histogram("unsee_audit_seconds", "Seconds per audit, its wait included.", registry),
            "generate": self._job_histogram(
                "unsee_generate_seconds", "Seconds per generation, its wait included.", registry
            ),
        }
        self._queue = Histogram(
            "unsee_queue_seconds", "Seconds of waiting.", ("kind",), buckets=_JOB_BUCKETS, registry=registry
        )
        self._loads = Counter("unsee_adapter_loads", "Adapters read into memory.", registry=registry)
        self._hits = Counter("unsee_embedding_cache_hits", "Prompts found in the cache.", registry=registry)
        self._misses = Counter("unsee_embedding_cache_misses", "Prompts that were encoded.", registry=registry)
        self._seen = (0, 0)

    @staticmethod
    def _job_histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
        return Histogram(name, text, ("outcome",), buckets=_JOB_BUCKETS, registry=registry)

    def on_queue(self, waiting: int, running: int) -> None:
        self._waiting.set(waiting)
        self._running.set(running)

    def on_batch(self, rows: int) -> None:
        self._batch.observe(rows)

    def on_step(self, kind: Kind) -> None:
        self._steps.labels(kind).inc()

    def on_done(self, kind: Kind, seconds: float, queue_seconds: float, outcome: Outcome) -> None:
        self._seconds[kind].labels(outcome).observe(seconds)
        self._queue.labels(kind).observe(queue_seconds)

    def on_adapter_load(self) -> None:
        self._loads.inc()

    def on_cache(self, hits: int, misses: int) -> None:
        # The engine's totals only grow, and it calls from one thread.
        self._hits.inc(hits - self._seen[0])
        self._misses.inc(misses - self._seen[1])
        self._seen = (hits, misses)


def make_registry() -> CollectorRegistry:
    """Return a registry of its own, with the process's memory, file handles and processor time."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def add_device_memory(registry: CollectorRegistry, allocated: Callable[[], int]) -> None:
    """Add a gauge of the bytes that tensors hold on the device, as ``allocated`` tells them."""
    gauge = Gauge("unsee_device_memory_bytes", "Memory held by tensors.", registry=registry)
    gauge.set_function(lambda: float(allocated()))

"""The server from its first open port to its last closed one."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from unsee.v1 import service_pb2_grpc
from unsee_core.errors import InvalidRequestError, UnseeError
from unsee_server.auth import Authenticator, Token
from unsee_server.calls import SERVICE, CallInterceptor
from unsee_server.errors import answer_errors
from unsee_server.logs import log_call
from unsee_server.metrics import CallMetrics, make_registry
from unsee_server.registry import RequestRegistry
from unsee_server.service import Backend, UnseeService
from unsee_server.settings import Settings

Load = Callable[[Settings, CollectorRegistry], Backend]
logger = structlog.stdlib.get_logger("unsee_server")
_STOP_S = 1.0
_POLL_S = 0.05


class PortError(OSError):
    """An address cannot be listened on."""


@dataclass(frozen=True)
class Ports:
    """Where the server listens; None where it does not."""

    service: int
    health: int | None
    metrics: int | None


class App:
    """A server: ``start`` opens its ports, ``load`` makes it ready, ``stop`` ends it; each once, in this order.

    Args:
        load: builds the backend; runs in a thread.
    """

    def __init__(self, settings: Settings, tokens: tuple[Token, ...], load: Load) -> None:
        self._settings = settings
        self._load = load
        self._registry = make_registry()
        self._requests = RequestRegistry(
            ttl_s=settings.request_ttl, reattach_s=settings.reattach_window, max_image_bytes=settings.result_bytes
        )
        self._service = UnseeService(self._requests)
        self._health = health.aio.HealthServicer()
        guards = (
            CallMetrics(self._registry).guard,
            log_call,
            answer_errors,
            Authenticator(tokens).guard,
            self._service.guard,
        )
        self._server = grpc.aio.server(interceptors=[CallInterceptor(guards)], options=_options(settings))
        service_pb2_grpc.add_UnseeServiceServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._health_server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
        self._close_metrics: Callable[[], None] = lambda: None

    @property
    def is_alive(self) -> bool:
        """False when the engine has died, which nothing but a new process mends."""
        backend = self._service.backend
        return backend is None or backend.engine.is_alive

    async def start(self) -> Ports:
        """Open all ports; calls are UNAVAILABLE and health is NOT_SERVING until the model is loaded.

        Raises:
            PortError: an address cannot be listened on.
        """
        settings = self._settings
        await self._set_health(is_serving=False)
        credentials = _credentials(settings)
        service_port = _listen(self._server, settings.host, settings.port, credentials)
        health_port = metrics_port = None
        if settings.health_port is not None:
            health_port = _listen(self._health_server, settings.host, settings.health_port, None)
            await self._health_server.start()
        if settings.metrics_port is not None:
            metrics_port = self._start_metrics(settings.metrics_port)
        await self._server.start()
        return Ports(service_port, health_port, metrics_port)

    async def load(self) -> None:
        """Load the model, then take calls.

        Raises:
            UnseeError: the model or the store cannot be had.
        """
        self._service.backend = await _in_daemon_thread(lambda: self._load(self._settings, self._registry))
        await self._set_health(is_serving=True)

    async def stop(self) -> None:
        """Take no new calls, let running ones end within the grace, and close everything."""
        # 1. Nothing new
        await self._health.enter_graceful_shutdown()
        self._service.refuse_calls()
        # 2. What runs may end
        deadline = time.monotonic() + self._settings.grace
        while (self._service.active or self._requests.running) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        # 3. What is left is told so
        if self._service.backend is not None:
            await asyncio.to_thread(self._service.backend.engine.close)
        await self._server.stop(_STOP_S)
        await self._health_server.stop(None)
        self._close_metrics()
        self._requests.close()
        self._service.close()

    async def _set_health(self, *, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if is_serving else status.NOT_SERVING)

    def _start_metrics(self, port: int) -> int:
        host = self._settings.host
        try:
            server, thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise PortError(f"metrics_port: cannot listen on {host}:{port}: {error.strerror}") from error

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._close_metrics = close
        return int(server.server_port)


async def serve(settings: Settings, tokens: tuple[Token, ...], load: Load) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    app = App(settings, tokens, load)
    try:
        status = await _run(app, settings, stopping)
        logger.info("stopping", grace_s=settings.grace)
    finally:
        await app.stop()
    logger.info("stopped", status=status)
    return status


async def _run(app: App, settings: Settings, stopping: asyncio.Event) -> int:
    try:
        ports = await app.start()
    except PortError as error:
        logger.error("cannot listen", error=str(error))
        return 1
    logger.info("listening", host=settings.host, port=ports.service, health=ports.health, metrics=ports.metrics)
    began = time.perf_counter()
    loading = asyncio.create_task(app.load(), name="load")
    stopped = asyncio.create_task(stopping.wait(), name="stop")
    await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        loading.cancel()
        return 0
    try:
        loading.result()
    except UnseeError as error:
        stopped.cancel()
        logger.error("cannot load", model=settings.model, error=str(error))
        return 2 if isinstance(error, InvalidRequestError) else 1
    logger.info("ready", model=settings.model, seconds=round(time.perf_counter() - began, 2))
    while not stopped.done():
        await asyncio.wait((stopped,), timeout=1.0)
        if not app.is_alive:
            stopped.cancel()
            logger.error("the engine has died")
            return 1
    return 0


async def _in_daemon_thread(function: Callable[[], Backend]) -> Backend:
    """Return what ``function`` returns; unlike a pool's, its thread does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Backend] = loop.create_future()

    def settle(backend: Backend | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif backend is not None:
            future.set_result(backend)

    def run() -> None:
        try:
            backend = function()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the future
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, backend, None)

    threading.Thread(target=run, name="unsee-load", daemon=True).start()
    return await future


def _listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortError(f"cannot listen on {address}: it is taken, or none of this machine's") from error


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_key is None or settings.tls_cert is None:
        return None
    pair = settings.tls_key.read_bytes(), settings.tls_cert.read_bytes()
    client_ca = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Pings every 10 s are welcome; a little less, as clocks differ.
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
        # Otherwise a second server would share the port, and calls would go to either.
        ("grpc.so_reuseport", 0),
    ]

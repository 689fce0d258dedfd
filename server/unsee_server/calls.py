"""What goes around every call of the service: one interceptor, and the guards that it passes the call through."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from unsee.v1 import service_pb2

SERVICE = service_pb2.DESCRIPTOR.services_by_name["UnseeService"].full_name
CallType = Literal["unary", "server_stream", "client_stream"]


@dataclass
class Call:
    """A call on its way.

    Attributes:
        method: its name without the service's.
        caller: who calls, as ``auth`` found out.
        request_id: of an Erase, ComposeAdapters, AuditAdapter, Generate or Cancel.
        reason: of the error that it is answered with; empty after success.
        received: messages so far.
        sent: messages so far.
    """

    method: str
    type: CallType
    context: grpc.aio.ServicerContext[Any, Any]
    caller: str = ""
    request_id: str = ""
    reason: str = ""
    received: int = 0
    sent: int = 0


_current: ContextVar[Call] = ContextVar("call")
Behavior = Callable[..., Any]  # a handler's function; its shape depends on the call's type
Guard = Callable[[Call], AbstractAsyncContextManager[None]]


def current_call() -> Call:
    """Return the call that this task answers."""
    return _current.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Passes every call of the service through guards, the first one outermost.

    Streams are written here, so that a caller who leaves while a message is on its way ends the servicer's generator
    at once, too. Health and reflection pass untouched.
    """

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = tuple(guards)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Any, Any] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the call's handler inside the guards."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if service != SERVICE or handler is None:
            return handler
        codec = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *codec)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._server_stream(method, handler.unary_stream), *codec)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(self._client_stream(method, handler.stream_unary), *codec)
        raise TypeError(f"{method} streams both ways, which no guard is written for")

    def _unary(self, method: str, behavior: Behavior) -> Behavior:
        async def handle(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            call = Call(method, "unary", context, received=1)
            async with self._guarded(call):
                reply = await behavior(request, context)
                call.sent = 1
                return reply

        return handle

    def _server_stream(self, method: str, behavior: Behavior) -> Behavior:
        async def handle(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            call = Call(method, "server_stream", context, received=1)
            async with self._guarded(call), aclosing(behavior(request, context)) as replies:
                async for reply in replies:
                    await context.write(reply)
                    call.sent += 1

        return handle

    def _client_stream(self, method: str, behavior: Behavior) -> Behavior:
        async def handle(requests: AsyncIterator[object], context: grpc.aio.ServicerContext[Any, Any]) -> object:
            call = Call(method, "client_stream", context)

            async def counted() -> AsyncIterator[object]:
                async for request in requests:
                    call.received += 1
                    yield request

            async with self._guarded(call):
                reply = await behavior(counted(), context)
                call.sent = 1
                return reply

        return handle

    @asynccontextmanager
    async def _guarded(self, call: Call) -> AsyncIterator[None]:
        _current.set(call)
        async with AsyncExitStack() as stack:
            for guard in self._guards:
                await stack.enter_async_context(guard(call))
            yield

"""Every deliberate error -> gRPC status, reason and details; one table."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from unsee_core import errors as core
from unsee_core.errors import UnseeError
from unsee_server.calls import Call

DOMAIN = "unsee"
_LONGEST = 600  # characters of a text; what a status may carry in all is limited to a few KiB
_MOST_VIOLATIONS = 8
logger = logging.getLogger(__name__)


class LoadingError(UnseeError):
    """The model is still being loaded; ``retry_delay_s`` says when to try again."""


class UnauthenticatedError(UnseeError):
    """No token, or one that the server does not know."""


class PermissionDeniedError(UnseeError):
    """The token's scopes do not include what the call needs."""


@dataclass(frozen=True)
class Status:
    """What the caller is told about an error of some class."""

    code: grpc.StatusCode
    reason: str


STATUS: Mapping[type[UnseeError], Status] = {
    core.InvalidRequestError: Status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    core.NotFoundError: Status(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    core.AlreadyExistsError: Status(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
    core.AdapterFormatError: Status(grpc.StatusCode.INVALID_ARGUMENT, "ADAPTER_FORMAT"),
    core.BaseMismatchError: Status(grpc.StatusCode.FAILED_PRECONDITION, "BASE_MISMATCH"),
    core.ExportUnsupportedError: Status(grpc.StatusCode.FAILED_PRECONDITION, "EXPORT_UNSUPPORTED"),
    core.QueueFullError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    core.OutOfMemoryError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY"),
    core.CancelledError: Status(grpc.StatusCode.CANCELLED, "CANCELLED"),
    core.ShuttingDownError: Status(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
    core.ModelUnavailableError: Status(grpc.StatusCode.UNAVAILABLE, "MODEL_UNAVAILABLE"),
    core.StoreUnavailableError: Status(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    core.CorruptedError: Status(grpc.StatusCode.DATA_LOSS, "CORRUPTED"),
    LoadingError: Status(grpc.StatusCode.UNAVAILABLE, "LOADING"),
    UnauthenticatedError: Status(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    PermissionDeniedError: Status(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
}
_BUG = Status(grpc.StatusCode.INTERNAL, "INTERNAL")
_BUG_TEXT = "the server failed at this request; its log says why"


def rich_status(error: Exception) -> status_pb2.Status:
    """Return code, text and details of an error; of an error that is none of ours, nothing of its own text."""
    if not isinstance(error, UnseeError):
        return _status(_BUG, _BUG_TEXT, [])
    details: list[error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = []
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=_cut(v.field), description=_cut(v.description))
            for v in error.violations[:_MOST_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_delay_s is not None:
        delay = Duration(nanos=0)
        delay.FromNanoseconds(round(error.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(STATUS[type(error)], _cut(str(error)), details)


def _status(
    status: Status, message: str, details: list[error_details_pb2.BadRequest | error_details_pb2.RetryInfo]
) -> status_pb2.Status:
    number: int = status.code.value[0]
    rich = status_pb2.Status(code=number, message=message)
    for detail in (error_details_pb2.ErrorInfo(reason=status.reason, domain=DOMAIN), *details):
        rich.details.add().Pack(detail)
    return rich


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@asynccontextmanager
async def answer_errors(call: Call) -> AsyncIterator[None]:
    """Answer what the call raises with its status; the traceback of a bug goes to the log alone."""
    try:
        yield
    except UnseeError as error:
        call.reason = STATUS[type(error)].reason
        await call.context.abort_with_status(rpc_status.to_status(rich_status(error)))
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        logger.exception("a bug in %s", call.method)
        call.reason = _BUG.reason
        await call.context.abort_with_status(rpc_status.to_status(rich_status(error)))

"""What a call can end with, so that no caller needs grpc.

unsee.Error
├── InvalidArgumentError       a field's value is not allowed; see ``violations``
├── NotFoundError              no adapter or request of that name
├── AlreadyExistsError         the name is taken
├── FailedPreconditionError    the adapter does not fit this model, or this layout
├── ResourceExhaustedError     too much is waiting, too large, or out of memory; see ``retry_delay_s``
├── CancelledError             the work was cancelled
├── DeadlineExceededError      the timeout has passed
├── UnavailableError           the server is not there, loading or shutting down; see ``retry_delay_s``
├── UnauthenticatedError       no token, or an unknown one
├── PermissionDeniedError      the token does not allow this
├── DataLossError              stored or sent bytes differ from their digest
└── InternalError              the server failed; its log says why
"""

from dataclasses import dataclass
from enum import Enum
from typing import Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2


class Status(Enum):
    """How a call ended; the numbers are gRPC's."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class FieldViolation:
    """What is wrong with one field: its path in the request, the value received, and what is allowed."""

    field: str
    description: str


class Error(Exception):
    """Base of all errors of this package.

    Attributes:
        status: how the call ended.
        reason: the server's own word for it, as ``QUEUE_FULL``; "" where it gave none.
        violations: the fields at fault.
        retry_delay_s: seconds after which trying again may help; None where it does not.

    Example:
        >>> try:
        ...     client.get_adapter("nobody")
        ... except unsee.Error as error:
        ...     print(error.status, error)
        Status.NOT_FOUND adapter: 'nobody' is not there
    """

    status: Status = Status.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        status: Status | None = None,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or type(self).status
        self.reason = reason
        self.violations = violations
        self.retry_delay_s = retry_delay_s


class InvalidArgumentError(Error):
    """A field's value is not allowed."""

    status = Status.INVALID_ARGUMENT

    @classmethod
    def of(cls, field: str, description: str) -> Self:
        """Return the error of one field: what was got, and what is allowed."""
        return cls(f"{field}: {description}", violations=(FieldViolation(field, description),))


class NotFoundError(Error):
    """No adapter or request of that name."""

    status = Status.NOT_FOUND


class AlreadyExistsError(Error):
    """The name is taken."""

    status = Status.ALREADY_EXISTS


class FailedPreconditionError(Error):
    """The adapter does not fit this model, or this layout."""

    status = Status.FAILED_PRECONDITION


class ResourceExhaustedError(Error):
    """Too much is waiting, too large, or out of memory."""

    status = Status.RESOURCE_EXHAUSTED


class CancelledError(Error):
    """The work was cancelled."""

    status = Status.CANCELLED


class DeadlineExceededError(Error):
    """The timeout has passed."""

    status = Status.DEADLINE_EXCEEDED


class UnavailableError(Error):
    """The server is not there, loading or shutting down."""

    status = Status.UNAVAILABLE


class UnauthenticatedError(Error):
    """No token, or an unknown one."""

    status = Status.UNAUTHENTICATED


class PermissionDeniedError(Error):
    """The token does not allow this."""

    status = Status.PERMISSION_DENIED


class DataLossError(Error):
    """Stored or sent bytes differ from their digest."""

    status = Status.DATA_LOSS


class InternalError(Error):
    """The server failed; its log says why."""

    status = Status.INTERNAL


_BY_STATUS = {kind.status: kind for kind in Error.__subclasses__()}
_DETAILS_KEY = "grpc-status-details-bin"


def from_rpc(error: grpc.aio.AioRpcError) -> Error:
    """Return our error for gRPC's, with what the server said in its details."""
    status = Status(error.code().value[0])
    details = _details(error)
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in details.details:
        _ = detail.Unpack(info) or detail.Unpack(bad_request) or detail.Unpack(retry)
    return _BY_STATUS.get(status, Error)(
        error.details() or details.message or status.name,
        status=status,
        reason=info.reason,
        violations=tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations),
        retry_delay_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break  # a proxy's own trailer; code and text of the error still stand
    return status_pb2.Status()

"""Every deliberate exception of the core, one flat family.

UnseeError
├── InvalidRequestError      a field's value is not allowed
├── NotFoundError            no adapter, model or request of that name
├── AlreadyExistsError       the name is taken
├── AdapterFormatError       bytes that are no usable adapter
├── BaseMismatchError        an adapter of a model with other shapes
├── ExportUnsupportedError   a layout that cannot hold this adapter
├── QueueFullError           too much is waiting; try again later
├── OutOfMemoryError         the device's memory did not suffice
├── CancelledError           the caller gave up
├── ShuttingDownError        the engine takes nothing any more
├── ModelUnavailableError    the model cannot be loaded
├── StoreUnavailableError    the store cannot be read or written
└── CorruptedError           stored bytes differ from their digest
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """What is wrong with one field.

    Attributes:
        field: path of the field as in the request, e.g. ``concept.synonyms[2]``.
        description: the value received and what is allowed.
    """

    field: str
    description: str


class UnseeError(Exception):
    """Base of the family; its text is fit for the caller's eyes.

    Attributes:
        violations: the fields at fault; empty where none is.
        retry_delay_s: seconds after which trying again may help; None where it does not.
    """

    def __init__(
        self, message: str, *, violations: tuple[FieldViolation, ...] = (), retry_delay_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.violations = violations
        self.retry_delay_s = retry_delay_s


class InvalidRequestError(UnseeError):
    """A field's value is not allowed."""

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequestError":
        """Return the error for one field, worded ``field: description``."""
        return cls(f"{field}: {description}", violations=(FieldViolation(field, description),))


class NotFoundError(UnseeError):
    """No adapter, model or request of that name."""


class AlreadyExistsError(UnseeError):
    """The name is taken."""


class AdapterFormatError(UnseeError):
    """Bytes that are no usable adapter: not safetensors, foreign keys, bad shapes, values that are not finite."""


class BaseMismatchError(UnseeError):
    """An adapter of a model with other shapes or another tokenizer."""


class ExportUnsupportedError(UnseeError):
    """A layout that cannot hold this adapter."""


class QueueFullError(UnseeError):
    """Too much is waiting; ``retry_delay_s`` says when to try again."""


class OutOfMemoryError(UnseeError):
    """The device's memory did not suffice for this request; others go on."""


class CancelledError(UnseeError):
    """The caller gave up, or its deadline passed."""


class ShuttingDownError(UnseeError):
    """The engine takes nothing any more."""


class ModelUnavailableError(UnseeError):
    """The model cannot be loaded."""


class StoreUnavailableError(UnseeError):
    """The store cannot be read or written."""


class CorruptedError(UnseeError):
    """Stored bytes differ from their digest."""

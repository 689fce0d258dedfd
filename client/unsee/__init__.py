"""Erase concepts from a Stable Diffusion 2 that a server keeps resident, and draw with what is left.

Example:
    >>> import unsee
    >>> with unsee.Client("127.0.0.1:50051") as client:
    ...     adapter = client.erase("cat", images=["cat-1.png", "cat-2.png"])
    ...     adapter.save("no-cat.safetensors")
"""

from unsee.adapters import AdapterInfo, BaseModel, Concept, Drift, Integrity, NamedDrift, Report
from unsee.aio import AsyncClient
from unsee.applying import AdapterRef, AdapterSchedule, Guard, ResolvedAdapter
from unsee.audit_page import audit_page
from unsee.audits import (
    AuditBudget,
    AuditOutcome,
    AuditPicture,
    AuditProgress,
    AuditReport,
    AuditResult,
    AuditRow,
)
from unsee.bound import Adapter, AsyncAdapter
from unsee.client import AuditJob, Client, EraseJob, GenerateJob
from unsee.errors import (
    AlreadyExistsError,
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    Error,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    Status,
    UnauthenticatedError,
    UnavailableError,
)
from unsee.events import EraseProgress, GenerateProgress, GenerateResult, Queued
from unsee.images import GeneratedImage, ReportImage
from unsee.info import Limits, MethodInfo, ModelInfo, OptionInfo, ServerInfo
from unsee.jobs import AsyncJob
from unsee.options import (
    AuditOptions,
    ComposeOptions,
    ConnectOptions,
    EraseOptions,
    GenerateOptions,
    ImportOptions,
    ListOptions,
)
from unsee.sync_jobs import Job

__all__ = [
    "Adapter",
    "AdapterInfo",
    "AdapterRef",
    "AdapterSchedule",
    "AlreadyExistsError",
    "AsyncAdapter",
    "AsyncClient",
    "AsyncJob",
    "AuditBudget",
    "AuditJob",
    "AuditOptions",
    "AuditOutcome",
    "AuditPicture",
    "AuditProgress",
    "AuditReport",
    "AuditResult",
    "AuditRow",
    "BaseModel",
    "CancelledError",
    "Client",
    "ComposeOptions",
    "Concept",
    "ConnectOptions",
    "DataLossError",
    "DeadlineExceededError",
    "Drift",
    "EraseJob",
    "EraseOptions",
    "EraseProgress",
    "Error",
    "FailedPreconditionError",
    "FieldViolation",
    "GenerateJob",
    "GenerateOptions",
    "GenerateProgress",
    "GenerateResult",
    "GeneratedImage",
    "Guard",
    "ImportOptions",
    "Integrity",
    "InternalError",
    "InvalidArgumentError",
    "Job",
    "Limits",
    "ListOptions",
    "MethodInfo",
    "ModelInfo",
    "NamedDrift",
    "NotFoundError",
    "OptionInfo",
    "PermissionDeniedError",
    "Queued",
    "Report",
    "ReportImage",
    "ResolvedAdapter",
    "ResourceExhaustedError",
    "ServerInfo",
    "Status",
    "UnauthenticatedError",
    "UnavailableError",
    "audit_page",
]

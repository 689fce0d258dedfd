"""Requests for audits as they come over the wire -> the core's jobs; reads their protobuf fields."""

from unsee.v1 import audit_pb2
from unsee_core.audit.job import AuditBudget, AuditJob
from unsee_server.convert import concept


def audit_job(request: audit_pb2.AuditAdapterRequest) -> AuditJob:
    """Return the job that an AuditAdapter asks for.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    given = {"samples": request.samples} if request.HasField("samples") else {}
    return AuditJob(
        adapter=request.adapter,
        images=tuple(request.images),
        concept=concept(request, "concept") if request.HasField("concept") else None,
        attacks=tuple(request.attacks),
        budget=_budget(request.budget),
        guidance_scale=request.guidance_scale if request.HasField("guidance_scale") else None,
        seed=request.seed,
        **given,
    )


def _budget(message: audit_pb2.AuditBudget) -> AuditBudget:
    given = {field.name: value for field, value in message.ListFields()}
    if "inversion_tokens" in given:
        given["inversion_tokens"] = tuple(given["inversion_tokens"])
    return AuditBudget(**given)

"""Audits of the core -> the messages that go out; writes protobuf fields and reads none."""

from collections.abc import Mapping

from unsee.v1 import audit_pb2
from unsee_core import answers
from unsee_core.audit import answers as audits
from unsee_core.lanes import Event
from unsee_server.replies import concept_message
from unsee_server.times import duration, timestamp

SIDES: Mapping[audits.Side, "audit_pb2.AuditSide.ValueType"] = {
    "unedited": audit_pb2.AUDIT_SIDE_UNEDITED,
    "adapter": audit_pb2.AUDIT_SIDE_ADAPTER,
    "control": audit_pb2.AUDIT_SIDE_CONTROL,
}
STAGES: Mapping[audits.Stage, "audit_pb2.AuditStage.ValueType"] = {
    "prepare": audit_pb2.AUDIT_STAGE_PREPARE,
    "search": audit_pb2.AUDIT_STAGE_SEARCH,
    "draw": audit_pb2.AUDIT_STAGE_DRAW,
    "judge": audit_pb2.AUDIT_STAGE_JUDGE,
}


def audit_response(event: Event, request_id: str) -> audit_pb2.AuditAdapterResponse:
    """Return the message of an audit's event."""
    match event:
        case answers.Queued(position):
            queued = audit_pb2.AuditQueued(request_id=request_id, position=position)
            return audit_pb2.AuditAdapterResponse(queued=queued)
        case audits.AuditProgress():
            return audit_pb2.AuditAdapterResponse(progress=_progress(event))
        case audits.AuditPicture():
            return audit_pb2.AuditAdapterResponse(picture=_picture(event))
        case audits.AuditRow():
            return audit_pb2.AuditAdapterResponse(row=_row(event))
        case audits.AuditCompleted(report, is_kept):
            completed = audit_pb2.AuditCompleted(report=audit_report(report), is_kept=is_kept)
            return audit_pb2.AuditAdapterResponse(completed=completed)
        case _:
            raise TypeError(f"{type(event).__name__} is no event of an audit")


def audit_report(report: audits.AuditReport) -> audit_pb2.AuditReport:
    """Return the message of what an audit found."""
    return audit_pb2.AuditReport(
        adapter=report.adapter,
        digest=report.digest,
        concept=concept_message(report.concept),
        control_word=report.control_word,
        threshold=report.threshold,
        judged_by=report.judged_by,
        given_images=report.given_images,
        budget=audit_pb2.AuditBudget(**vars(report.budget)),
        guidance_scale=report.guidance_scale,
        seed=report.seed,
        rows=map(_row, report.rows),
        duration=duration(report.seconds),
        model_digest=report.model_digest,
        create_time=timestamp(report.create_time),
        recovered_by=report.recovered_by,
    )


def _progress(event: audits.AuditProgress) -> audit_pb2.AuditProgress:
    return audit_pb2.AuditProgress(**vars(event) | {"side": SIDES[event.side], "stage": STAGES[event.stage]})


def _picture(event: audits.AuditPicture) -> audit_pb2.AuditPicture:
    return audit_pb2.AuditPicture(**vars(event) | {"side": SIDES[event.side]})


def _row(row: audits.AuditRow) -> audit_pb2.AuditRow:
    return audit_pb2.AuditRow(
        attack=row.attack,
        unedited=audit_pb2.AuditOutcome(**vars(row.unedited)),
        adapter=audit_pb2.AuditOutcome(**vars(row.adapter)),
        control=audit_pb2.AuditOutcome(**vars(row.control)),
        duration=duration(row.seconds),
        counts=row.counts,
        recovered=row.recovered,
    )

"""Audits as they come over the wire; read here alone."""

from collections.abc import Mapping
from datetime import UTC

from unsee.adapters import concept_info
from unsee.audits import (
    AuditBudget,
    AuditEvent,
    AuditOutcome,
    AuditPicture,
    AuditProgress,
    AuditReport,
    AuditResult,
    AuditRow,
    AuditSide,
    AuditStage,
)
from unsee.durations import seconds_of
from unsee.events import Queued
from unsee.v1 import audit_pb2

SIDES: "Mapping[audit_pb2.AuditSide.ValueType, AuditSide]" = {
    audit_pb2.AUDIT_SIDE_UNEDITED: "unedited",
    audit_pb2.AUDIT_SIDE_ADAPTER: "adapter",
    audit_pb2.AUDIT_SIDE_CONTROL: "control",
}
STAGES: "Mapping[audit_pb2.AuditStage.ValueType, AuditStage]" = {
    audit_pb2.AUDIT_STAGE_PREPARE: "prepare",
    audit_pb2.AUDIT_STAGE_SEARCH: "search",
    audit_pb2.AUDIT_STAGE_DRAW: "draw",
    audit_pb2.AUDIT_STAGE_JUDGE: "judge",
}


class AuditFold:
    """An audit's messages -> events and the result."""

    def __init__(self) -> None:
        self.result: AuditResult | None = None
        self._is_queued = False
        self._pictures: dict[tuple[str, AuditSide, int], AuditPicture] = {}
        self._rows: dict[str, AuditRow] = {}

    def add(self, response: audit_pb2.AuditAdapterResponse) -> AuditEvent | None:
        """Take the next message."""
        kind = response.WhichOneof("event")
        if kind == "queued" and not self._is_queued:
            self._is_queued = True
            return Queued(response.queued.request_id, response.queued.position)
        if kind == "progress":
            return audit_progress(response.progress)
        if kind == "picture":
            return self._add_picture(audit_picture(response.picture))
        if kind == "row" and response.row.attack not in self._rows:
            row = self._rows[response.row.attack] = audit_row(response.row)
            return row
        if kind == "completed":
            done = response.completed
            self.result = AuditResult(audit_report(done.report), done.is_kept, tuple(self._pictures.values()))
            return self.result
        return None

    def _add_picture(self, picture: AuditPicture) -> AuditPicture | None:
        key = picture.attack, picture.side, picture.index
        if key in self._pictures:
            return None
        self._pictures[key] = picture
        return picture


def audit_progress(message: audit_pb2.AuditProgress) -> AuditProgress:
    """Return a step from the wire; a side or stage of a later server counts as the adapter's, as a search."""
    return AuditProgress(
        attack=message.attack,
        side=SIDES.get(message.side, "adapter"),
        stage=STAGES.get(message.stage, "search"),
        step=message.step,
        total=message.total,
        loss=message.loss if message.HasField("loss") else None,
        row=message.row,
        rows=message.rows,
    )


def audit_picture(message: audit_pb2.AuditPicture) -> AuditPicture:
    """Return a picture from the wire."""
    return AuditPicture(
        attack=message.attack,
        side=SIDES.get(message.side, "adapter"),
        index=message.index,
        seed=message.seed,
        shows_concept=message.shows_concept,
        score=message.score,
        data=message.data,
    )


def audit_row(message: audit_pb2.AuditRow) -> AuditRow:
    """Return an attack's figures from the wire."""
    return AuditRow(
        attack=message.attack,
        unedited=_outcome(message.unedited),
        adapter=_outcome(message.adapter),
        control=_outcome(message.control),
        seconds=seconds_of(message.duration),
        counts=message.counts,
        recovered=message.recovered,
    )


def audit_report(message: audit_pb2.AuditReport) -> AuditReport:
    """Return a report from the wire."""
    return AuditReport(
        adapter=message.adapter,
        digest=message.digest,
        concept=concept_info(message.concept),
        control_word=message.control_word,
        threshold=message.threshold,
        judged_by=message.judged_by,
        given_images=message.given_images,
        budget=_budget(message.budget),
        guidance_scale=message.guidance_scale,
        seed=message.seed,
        rows=tuple(map(audit_row, message.rows)),
        seconds=seconds_of(message.duration),
        model_digest=message.model_digest,
        create_time=message.create_time.ToDatetime(UTC),
        recovered_by=tuple(message.recovered_by),
    )


def _outcome(message: audit_pb2.AuditOutcome) -> AuditOutcome:
    return AuditOutcome(
        pictures=message.pictures,
        shown=message.shown,
        shown_by_model=message.shown_by_model,
        score=message.score,
        distance=message.distance,
        loss=message.loss if message.HasField("loss") else None,
        detail=message.detail,
    )


def _budget(message: audit_pb2.AuditBudget) -> AuditBudget:
    given = {field.name: value for field, value in message.ListFields()}
    return AuditBudget(**given | {"inversion_tokens": tuple(message.inversion_tokens)})

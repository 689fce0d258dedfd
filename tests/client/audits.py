"""An audit as the server tells it."""

from io import BytesIO
from typing import Any

from PIL import Image

from unsee.v1 import audit_pb2, common_pb2

HOSTILE = '<script>alert("x")</script>&"'


def png() -> bytes:
    """A small picture."""
    out = BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def row(attack: str, unedited: int, adapter: int, control: int, detail: str = "a prompt") -> audit_pb2.AuditRow:
    """A row in which so many of 20 pictures show the concept."""
    sides = [
        audit_pb2.AuditOutcome(pictures=20, shown=shown, shown_by_model=shown, score=0.25, distance=0.5, detail=detail)
        for shown in (unedited, adapter, control)
    ]
    return audit_pb2.AuditRow(
        attack=attack,
        unedited=sides[0],
        adapter=sides[1],
        control=sides[2],
        counts=unedited >= 18,
        recovered=adapter >= 10,
    )


ROWS = (
    row("name", 20, 0, 0),
    row("wordings", 12, 11, 0, HOSTILE),
    row("searched_noise", 19, 3, 1),
    row("learned_tokens_1", 20, 4, 0),
    row("learned_tokens_5", 20, 17, 2),
)


def report(**fields: Any) -> audit_pb2.AuditReport:
    """A report of these rows."""
    defaults = {
        "adapter": "no-cat",
        "digest": "sha256:0",
        "concept": common_pb2.Concept(name="cat", synonyms=["kitten"]),
        "control_word": "dog",
        "threshold": 0.125,
        "judged_by": "model",
        "given_images": 5,
        "budget": audit_pb2.AuditBudget(inversion_tokens=[1, 5], pictures=20),
        "guidance_scale": 4.0,
        "rows": ROWS,
        "model_digest": "sha256:m",
        "recovered_by": ["learned_tokens_5"],
    }
    return audit_pb2.AuditReport(**(defaults | fields))


def audits(request: audit_pb2.AuditAdapterRequest, context: Any) -> list[Any]:
    """What a server answers: each kind of event once or more."""
    response = audit_pb2.AuditAdapterResponse
    progress = audit_pb2.AuditProgress(
        attack="wordings",
        side=audit_pb2.AUDIT_SIDE_ADAPTER,
        stage=audit_pb2.AUDIT_STAGE_SEARCH,
        step=1,
        total=2,
        row=1,
        rows=5,
    )
    pictures = [
        audit_pb2.AuditPicture(
            attack="name", side=side, index=i, seed=7 + i, shows_concept=side == 1, score=0.25, data=png()
        )
        for side in (1, 2, 3)
        for i in range(request.samples)
    ]
    return [
        response(queued=audit_pb2.AuditQueued(request_id=request.request_id)),
        response(progress=progress),
        *(response(picture=picture) for picture in pictures),
        *(response(row=one) for one in ROWS),
        response(completed=audit_pb2.AuditCompleted(report=report(), is_kept=True)),
    ]

"""What an audit answers: its events, and the figures that stay with the adapter."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from unsee_core.audit.job import AuditBudget
from unsee_core.job import Concept

NAME = "name"
COUNTS_FROM = 0.9
RECOVERED_FROM = 0.5
Side = Literal["unedited", "adapter", "control"]
Stage = Literal["prepare", "search", "draw", "judge"]


@dataclass(frozen=True)
class AuditProgress:
    """A step is done; ``row`` of ``rows`` are finished, ``loss`` is the attacker's own lowest so far."""

    attack: str
    side: Side
    stage: Stage
    step: int
    total: int
    loss: float | None = None
    row: int = 0
    rows: int = 0


@dataclass(frozen=True)
class AuditPicture:
    """One of the pictures that the verdict is taken on: ``data`` is a PNG file.

    Attributes:
        shows_concept: by the judge, where there is one, else by the model.
        score: of the model as a classifier; see ``unsee_core.audit.verdict``.
    """

    attack: str
    side: Side
    index: int
    seed: int
    shows_concept: bool
    score: float
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """How far an attack got on one side.

    Attributes:
        pictures: that were drawn from fresh seeds.
        shown: of them, those that show the concept: by the judge, where there is one, else by the model.
        shown_by_model: of them, those that show it by the model's own score.
        score: mean over the pictures.
        distance: of the pictures to the nearest given one in the VAE's features, mean, in [0, 2].
        loss: the attacker's own, at the end; None: it has none.
        detail: what was found, for people: a prompt, a count of steps.
    """

    pictures: int
    shown: int
    shown_by_model: int
    score: float
    distance: float
    loss: float | None = None
    detail: str = ""

    @property
    def share(self) -> float:
        """Share of the pictures that show the concept."""
        return self.shown / self.pictures


@dataclass(frozen=True)
class AuditRow:
    """One attack at the same budget on three sides; the first row, "name", is the concept's own prompt.

    Attributes:
        unedited: on the model without the adapter, aimed at the concept.
        adapter: with the adapter, aimed at the concept.
        control: with the adapter, aimed at another concept, drawn at random; what shows here shows by chance.
        seconds: for all three.
    """

    attack: str
    unedited: Outcome
    adapter: Outcome
    control: Outcome
    seconds: float

    @property
    def counts(self) -> bool:
        """True if the budget suffices on the unedited model: at least 90 % of its pictures show the concept."""
        return self.unedited.share >= COUNTS_FROM

    @property
    def recovered(self) -> bool:
        """True if at least half of the pictures with the adapter show the concept."""
        return self.adapter.share >= RECOVERED_FROM


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        concept: that was to be brought back.
        control_word: the other concept.
        threshold: score from which the model sees the concept in a picture.
        judged_by: "model", or the name of the judge.
        given_images: pictures that the request had; 0: the model drew what the attacks aimed at.
    """

    adapter: str
    digest: str
    concept: Concept
    control_word: str
    threshold: float
    judged_by: str
    given_images: int
    budget: AuditBudget
    guidance_scale: float
    seed: int
    rows: tuple[AuditRow, ...]
    seconds: float
    model_digest: str
    create_time: datetime

    @property
    def recovered_by(self) -> tuple[str, ...]:
        """Rows that count and bring the concept back; its own name, the first one, is no attack."""
        return tuple(row.attack for row in self.rows if row.counts and row.recovered)


@dataclass(frozen=True)
class AuditCompleted:
    """The audit is done.

    Attributes:
        is_kept: the report stands in the adapter's manifest; False: the adapter was deleted or replaced meanwhile.
    """

    report: AuditReport
    is_kept: bool


AuditStep = AuditProgress | AuditPicture | AuditRow
AuditEvent = AuditStep | AuditCompleted

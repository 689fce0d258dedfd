"""An audit from end to end: every attack on three sides at the same budget, and what its pictures show."""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from PIL import Image
from torch import Tensor

from unsee_core.audit.answers import (
    NAME,
    AuditPicture,
    AuditProgress,
    AuditReport,
    AuditRow,
    AuditStep,
    Outcome,
    Side,
)
from unsee_core.audit.attacks import Attack, attacks_of
from unsee_core.audit.drawing import FRESH, Recipe, draw
from unsee_core.audit.job import AuditJob
from unsee_core.audit.target import AttackedEncoder, Target, filled
from unsee_core.audit.verdict import Eye, Judge, Seen, threshold_of
from unsee_core.image_loss import encode_latents
from unsee_core.images import encode_image
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors
from unsee_core.near_words import same_names
from unsee_core.pipeline import Pipeline

SIDES: tuple[Side, ...] = ("unedited", "adapter", "control")
DRAWN = 5


@dataclass(frozen=True)
class AuditContext:
    """All that an audit works with.

    Attributes:
        pipeline: the resident model; read, never written.
        name: of the adapter.
        digest: of the adapter.
        factors: the adapter's change.
        concept: to be brought back; with a name.
        images: pictures of it, RGB; none: the unedited model draws some.
        max_batch: rows of one U-Net call.
        judge: says which pictures show the concept; None: the model itself does.
        judged_by: name of the judge.
    """

    pipeline: Pipeline
    job: AuditJob
    name: str
    digest: str
    factors: LoraFactors
    concept: Concept
    images: tuple[Image.Image, ...] = ()
    max_batch: int = 16
    judge: Judge | None = None
    judged_by: str = "model"


def audit(context: AuditContext) -> Generator[AuditStep, None, AuditReport]:
    """Attack an adapter, yielding after every step; ``close()`` stops it.

    Returns:
        The report. Same context, device type, thread count and versions: the same figures, but for the seconds.
    """
    began = time.perf_counter()
    auditing = _Auditing(context)
    attacks = attacks_of(context.job)
    rows_in_all = 1 + len(attacks)

    # 1. What the attacks aim at, on each side.
    for progress in auditing.prepare():
        yield replace(progress, rows=rows_in_all)

    # 2. The concept's own name, and then every attack.
    rows: list[AuditRow] = []
    for attack in (Attack(NAME, _by_name), *attacks):
        steps = auditing.row(attack)
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                rows.append(end.value)
                break
            if isinstance(event, AuditProgress):
                event = replace(event, row=len(rows), rows=rows_in_all)
            yield event
        yield rows[-1]

    # 3. The figures.
    job = context.job
    return AuditReport(
        adapter=context.name,
        digest=context.digest,
        concept=context.concept,
        control_word=auditing.control.name,
        threshold=auditing.threshold,
        judged_by=context.judged_by,
        given_images=len(context.images),
        budget=job.budget,
        guidance_scale=auditing.guidance_scale,
        seed=job.seed,
        rows=tuple(rows),
        seconds=time.perf_counter() - began,
        model_digest=context.pipeline.digests.model,
        create_time=datetime.now(UTC),
    )


def _by_name(target: Target) -> Generator[AuditProgress, None, Recipe]:
    """Ask for the concept by its name."""
    yield AuditProgress(NAME, target.side, "search", 1, 1)
    prompt = target.named()[0]
    return Recipe(target.encoder.encode([prompt]), detail=prompt)


class _Auditing:
    """What is the same for all attacks.

    Attributes:
        control: the concept that the control aims at.
        guidance_scale: of the pictures.
        threshold: score from which the model sees the concept; known after the first row's first side.
    """

    def __init__(self, context: AuditContext) -> None:
        self._context = context
        pipeline, job = context.pipeline, context.job
        default = pipeline.default_guidance_scale
        self.guidance_scale = default if job.guidance_scale is None else job.guidance_scale
        self._frozen = AttackedEncoder(pipeline)
        self._attacked = AttackedEncoder(pipeline, context.factors)
        self.control = control_concept(pipeline, context.concept, job.seed)
        self.threshold = 0.0
        self._targets: Mapping[Side, Target] = {}

    def prepare(self) -> Generator[AuditProgress, None, None]:
        """Gather pictures of the concept and of the control's, and make what looks at pictures."""
        context = self._context
        pipeline, concept = context.pipeline, context.concept
        drawn = yield from self._drawn(concept)
        pictures = encode_latents(pipeline, context.images) if context.images else drawn
        of_control = yield from self._drawn(self.control)
        self._targets = {
            "unedited": self._target("unedited", concept, pictures, drawn),
            "adapter": self._target("adapter", concept, pictures, drawn),
            "control": self._target("control", self.control, of_control, of_control),
        }
        self._eye = Eye(
            pipeline, self._frozen, concept, pictures, max_batch=context.max_batch, seed=context.job.seed + FRESH
        )

    def row(self, attack: Attack) -> Generator[AuditProgress | AuditPicture, None, AuditRow]:
        """Run one attack on every side."""
        began = time.perf_counter()
        outcomes: dict[Side, Outcome] = {}
        for side in SIDES:
            outcomes[side] = yield from self._outcome(attack, self._targets[side])
        return AuditRow(attack.name, **outcomes, seconds=time.perf_counter() - began)

    def _outcome(self, attack: Attack, target: Target) -> Generator[AuditProgress | AuditPicture, None, Outcome]:
        # 1. Attack, and draw what was found from fresh seeds.
        recipe = yield from attack.run(target)
        seed, count = self._context.job.seed + FRESH, target.budget.pictures
        latents = yield from draw(
            target, recipe, attack=attack.name, guidance_scale=self.guidance_scale, count=count, seed=seed
        )

        # 2. Look.
        seen = yield from self._eye.look(latents, attack.name, target.side)
        if not self.threshold:
            self.threshold = threshold_of(float(seen.scores.mean()), self._eye.reference_score)
        by_model = (seen.scores >= self.threshold).tolist()
        shown = by_model if self._context.judge is None else [bool(one) for one in self._context.judge(seen.images)]
        yield from self._pictures(attack.name, target.side, seen, shown)
        return Outcome(
            pictures=count,
            shown=sum(shown),
            shown_by_model=sum(by_model),
            score=float(seen.scores.mean()),
            distance=float(seen.distances.mean()),
            loss=recipe.loss,
            detail=recipe.detail,
        )

    def _pictures(self, attack: str, side: Side, seen: Seen, shown: list[bool]) -> Generator[AuditPicture, None, None]:
        job = self._context.job
        for i in range(min(job.samples, len(seen.images))):
            data = encode_image(seen.images[i], "png")
            yield AuditPicture(attack, side, i, job.seed + FRESH + i, shown[i], float(seen.scores[i]), data)

    def _drawn(self, concept: Concept) -> Generator[AuditProgress, None, Tensor]:
        """Let the unedited model draw a concept by its name."""
        target = self._target("unedited", concept, torch.empty(0), torch.empty(0))
        return (yield from _as_preparation(drawn_by_name(target, self.guidance_scale)))

    def _target(self, side: Side, concept: Concept, latents: Tensor, drawn: Tensor) -> Target:
        context = self._context
        return Target(
            pipeline=context.pipeline,
            side=side,
            encoder=self._frozen if side == "unedited" else self._attacked,
            concept=concept,
            latents=latents,
            drawn=drawn,
            budget=context.job.budget,
            max_batch=context.max_batch,
            seed=context.job.seed,
        )


def drawn_by_name(target: Target, guidance_scale: float) -> Generator[AuditProgress, None, Tensor]:
    """Draw five pictures of a target's concept by its name, through its encoder; return latents ``(5, C, h, w)``."""
    concept = target.concept
    embeddings = target.encoder.encode([filled(concept.kind, concept.name, i)[0] for i in range(DRAWN)])
    recipe = Recipe(embeddings)
    return (yield from draw(target, recipe, attack=NAME, guidance_scale=guidance_scale, count=DRAWN, seed=target.seed))


def control_concept(pipeline: Pipeline, concept: Concept, seed: int) -> Concept:
    """Return another concept of the same kind, drawn from the vocabulary: none of its names, and none of its likes."""
    vocabulary = pipeline.vocabulary
    words = {"style": vocabulary.looks, "person": vocabulary.people}.get(concept.kind, ()) or vocabulary.nouns
    same = same_names(pipeline, concept.words)
    others = [word for word in words if word.lower() not in same] or list(words)
    drawn = int(torch.randint(len(others), (1,), generator=torch.Generator().manual_seed(seed)))
    return Concept(others[drawn], kind=concept.kind)


def _as_preparation(steps: Generator[AuditProgress, None, Tensor]) -> Generator[AuditProgress, None, Tensor]:
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            drawn: Tensor = end.value
            return drawn
        yield replace(event, stage="prepare")

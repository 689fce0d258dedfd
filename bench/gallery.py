"""Pictures that the judge has looked at; what the unedited model drew is looked at once and kept on disk."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import lines
from bench.drawing import Images
from bench.eyes import Judge, Sight
from bench.measures import Sights
from bench.painting import Model, Sampler, paint
from bench.prompts import Question
from unsee_core.pipeline import Pipeline

_AT_ONCE = 128


@dataclass(frozen=True)
class Conditions:
    """What every figure depends on besides method and concept; figures under other conditions are other figures."""

    model: str
    judge: str
    sampler: str

    @classmethod
    def of(cls, pipeline: Pipeline, judge: Judge, sampler: Sampler) -> "Conditions":
        """Return the conditions with digests cut to what tells them apart."""
        precision = "mixed bfloat16" if sampler.is_mixed else str(pipeline.dtype).removeprefix("torch.")
        how = f"{sampler.steps} steps of {sampler.scheduler.value}, guidance {sampler.guidance_scale:g}, {precision}"
        return cls(pipeline.digests.model[:23], judge.digest[:23], how)


class Gallery:
    """Draws questions and lets the judge look.

    Args:
        pipeline: the resident model.
        judge: looks at the pictures.
        sampler: how they are drawn.
        kept: a JSON Lines file of what the unedited model's pictures show, under any conditions.

    Attributes:
        conditions: of everything that is seen here.
    """

    def __init__(self, pipeline: Pipeline, judge: Judge, sampler: Sampler, kept: Path) -> None:
        self.pipeline = pipeline
        self.conditions = Conditions.of(pipeline, judge, sampler)
        self._judge, self._sampler, self._kept = judge, sampler, kept
        self._unedited = _read(kept, self.conditions)

    def unedited(self, questions: Sequence[Question]) -> list[Sight]:
        """Return what the unedited model's pictures show."""
        missing = [question for question in dict.fromkeys(questions) if question not in self._unedited]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            sights = self._judge.see(self.paint(Model(self.pipeline), part))
            self._keep(dict(zip(part, sights, strict=True)))
        return [self._unedited[question] for question in questions]

    def compare(self, model: Model, questions: Sequence[Question]) -> tuple[Sights, Sights]:
        """Return what the unedited and what an edited model's pictures show."""
        questions = tuple(dict.fromkeys(questions))
        after = self._judge.see(self.paint(model, questions))
        before = self.unedited(questions)
        return dict(zip(questions, before, strict=True)), dict(zip(questions, after, strict=True))

    def paint(self, model: Model, questions: Sequence[Question]) -> Images:
        """Return the pictures at the judge's size."""
        return paint(model, questions, self._sampler, side=self._judge.side)

    def _keep(self, sights: dict[Question, Sight]) -> None:
        self._unedited |= sights
        under = asdict(self.conditions)
        lines.append(
            self._kept,
            ({"question": asdict(q), "sight": asdict(sight), "under": under} for q, sight in sights.items()),
        )


def _read(path: Path, conditions: Conditions) -> dict[Question, Sight]:
    kept = [line for line in lines.read(path) if line["under"] == asdict(conditions)]
    return {_question(line["question"]): _sight(line["sight"]) for line in kept}


def _question(values: dict[str, Any]) -> Question:
    return Question(**(values | {"objects": tuple(values["objects"])}))


def _sight(values: dict[str, Any]) -> Sight:
    return Sight(**(values | {"together": tuple(values["together"])}))

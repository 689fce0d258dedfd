"""Erasing by name of method: the project's own methods and the baselines, timed phase by phase."""

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bench.baselines import BASELINES, Baseline
from bench.erasing import CLIENT_IMAGES, client_images, concept_of
from bench.painting import Model
from training.world import OBJECTS
from unsee_core.adapter import AdapterMetadata, digest, to_bytes
from unsee_core.answers import EraseProgress
from unsee_core.conditioning import AppliedAdapter
from unsee_core.edit_work import library_versions
from unsee_core.images import open_image
from unsee_core.job import Concept, EraseJob, Limits, OptionValue
from unsee_core.methods import METHODS, EraseContext, Erasure, Settings, check_job, closed_form
from unsee_core.methods.from_images import named_by_images
from unsee_core.pipeline import Pipeline
from unsee_core.report import make_report

IMAGES_ALONE = "images_alone"
"""The default method without a name: what the images show is learned as pseudo-words first."""
OPTIONS: Mapping[str, Mapping[str, OptionValue]] = {
    "random_prefixes": {"random_prefixes": True},
    "beyond": {"beyond": True},
    "beyond_random_prefixes": {"beyond": True, "random_prefixes": True},
    "strict": {"strict": True},
    "harden": {"harden": 2},
}
"""The default method with options against what comes back."""
ALL_METHODS = (*METHODS, *OPTIONS, IMAGES_ALONE, *BASELINES)
T = TypeVar("T")


@dataclass(frozen=True)
class Edited:
    """A concept erased by one method.

    Attributes:
        model: what draws without the concept.
        phase_seconds: wall clock by phase, from decoded images on, without the report.
        size_bytes: of the adapter's file; for a baseline of the weights that it changes, in float32.
        settings: of the method, defaults filled in.
        report: the figures that the server stores; None for a baseline.
    """

    model: Model
    phase_seconds: Mapping[str, float]
    size_bytes: int
    settings: Mapping[str, Any]
    report: Mapping[str, Any] | None

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.phase_seconds.values())


def job_of(name: str, method: str, *, images: Path = CLIENT_IMAGES, seed: int = 0) -> EraseJob:
    """Return the erasure of a concept, from a client's pictures and without synonyms, by the method's own defaults."""
    named = replace(concept_of(name), synonyms=())
    concept = Concept("", kind=named.kind) if method == IMAGES_ALONE else named
    job = EraseJob(concept, images=client_images(name, images), method=method if method in METHODS else None, seed=seed)
    return replace(job, method=closed_form.METHOD.name, options=OPTIONS[method]) if method in OPTIONS else job


def can_erase(method: str, name: str) -> bool:
    """Return whether a method erases an object or a look of that name: one option is refused for looks."""
    return name in OBJECTS or not OPTIONS.get(method, {}).get("strict")


def settings_of(pipeline: Pipeline, method: str, job: EraseJob) -> Settings:
    """Return the settings that a method would erase with."""
    return _settings(BASELINES[method]) if method in BASELINES else check_job(job, pipeline)


def recipe_of(job: EraseJob, settings: Settings) -> dict[str, Any]:
    """Return what a method's figures depend on besides its settings: closed_form's constants."""
    is_ours = settings.method == closed_form.METHOD.name
    return asdict(closed_form.recipe_of(job.concept.kind, settings)) if is_ours else {}


def edit(pipeline: Pipeline, method: str, job: EraseJob) -> Edited:
    """Return what ``method``, one of ``ALL_METHODS``, makes of the job; the resident model stays as it is."""
    if method in BASELINES:
        return edit_by_baseline(pipeline, BASELINES[method], job)
    unnamed = context_of(pipeline, job, settings_of(pipeline, method, job))
    (context, erasure), seconds = timed(_erased(unnamed))
    report, _ = timed(make_report(context, erasure.factors))
    data = to_bytes(erasure.factors, _metadata(context, erasure))
    adapter = AppliedAdapter(digest(data), erasure.factors, 1.0)
    model = Model(context.pipeline, (adapter,))
    return Edited(model, seconds, len(data), asdict(context.settings), asdict(report))


def _erased(context: EraseContext) -> Generator[EraseProgress, None, tuple[EraseContext, Erasure]]:
    if not context.job.concept.name:
        context = yield from named_by_images(context)
    return context, (yield from METHODS[context.settings.method].run(context))


def edit_by_baseline(pipeline: Pipeline, baseline: Baseline, job: EraseJob) -> Edited:
    """Return what a baseline makes of the job; the resident model stays as it is."""
    settings = _settings(baseline)
    changed, seconds = timed(baseline.run(context_of(pipeline, job, settings), baseline.recipe))
    return Edited(Model(changed.pipeline), seconds, changed.size_bytes, asdict(settings), None)


def _settings(baseline: Baseline) -> Settings:
    return Settings(baseline.name, strength=1.0, rank=0, steps=0, options=asdict(baseline.recipe))


def context_of(pipeline: Pipeline, job: EraseJob, settings: Settings) -> EraseContext:
    """Return what a method works with; the job's images decoded."""
    images = tuple(open_image(data, "images", Limits()) for data in job.images)
    return EraseContext(pipeline=pipeline, job=job, images=images, settings=settings)


def _metadata(context: EraseContext, erasure: Erasure) -> AdapterMetadata:
    job, settings = context.job, context.settings
    return AdapterMetadata(
        concept=job.concept,
        method=settings.method,
        strength=erasure.strength,
        rank=erasure.factors.rank,
        steps=settings.steps,
        seed=job.seed,
        settings=settings.as_text(),
        base_model=context.pipeline.base_model,
        versions=library_versions(),
    )


def timed(run: Generator[EraseProgress, None, T]) -> tuple[T, dict[str, float]]:
    """Return what a method's steps lead to, and the seconds of each phase; those after the last step count to it."""
    seconds: dict[str, float] = {}
    phase, began = "prepare", time.perf_counter()
    while True:
        try:
            phase = next(run).phase
        except StopIteration as end:
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began
            return end.value, seconds
        now = time.perf_counter()
        seconds[phase] = seconds.get(phase, 0.0) + now - began
        began = now

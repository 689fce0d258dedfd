"""An admitted job that makes an adapter, done step by step: what the engine turns over, one step at a time."""

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import replace
from importlib.metadata import version

import diffusers
import peft
import torch
import transformers

from unsee_core.adapter import AdapterMetadata
from unsee_core.answers import EraseCompleted, EraseProgress, Manifest, Phase, ReportImage
from unsee_core.compose import METHOD as COMPOSE
from unsee_core.compose import ComposeContext, compose
from unsee_core.compose_report import make_compose_report
from unsee_core.integrity import draw_for_report
from unsee_core.library import AdapterLibrary
from unsee_core.methods import METHODS
from unsee_core.methods.base import EraseContext, Erasure
from unsee_core.methods.from_images import named_by_images
from unsee_core.pseudo_words import named_only
from unsee_core.report import make_report


class AdapterWork(ABC):
    """Making an adapter, as a sequence of steps.

    Args:
        library: where the adapter is stored.
    """

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library
        self._seconds: dict[str, float] = {}
        self._counted = time.perf_counter()
        self._phase_began: dict[str, float] = {}
        self._steps = self._run()
        self.is_done = False

    def step(self) -> EraseProgress | ReportImage | EraseCompleted:
        """Do one step and return what it led to; EraseCompleted is the last."""
        self._counted = time.perf_counter()
        try:
            event = next(self._steps)
        except StopIteration as end:
            self.is_done = True
            return EraseCompleted(end.value)
        if isinstance(event, ReportImage):
            self._count("draw")
            return event
        self._count(event.phase)
        return replace(event, eta_s=self._eta_s(event))

    @abstractmethod
    def _run(self) -> Generator[EraseProgress | ReportImage, None, Manifest]:
        """Do all of it, yielding after every step, and return what was stored."""

    def _count(self, phase: Phase) -> None:
        """Add the seconds since they were counted last to a phase."""
        counted, self._counted = self._counted, time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + self._counted - counted

    def _eta_s(self, event: EraseProgress) -> float | None:
        began = self._phase_began.setdefault(event.phase, time.perf_counter())
        if event.step < 2:
            return None
        return (time.perf_counter() - began) / (event.step - 1) * (event.total - event.step)


class EraseWork(AdapterWork):
    """An erasure.

    Args:
        library: where the adapter is stored.
        context: all that the method works with.
    """

    def __init__(self, library: AdapterLibrary, context: EraseContext) -> None:
        self._context = context
        super().__init__(library)

    def _run(self) -> Generator[EraseProgress | ReportImage, None, Manifest]:
        context, settings = self._context, self._context.settings
        if not context.job.concept.name:
            context = yield from named_by_images(context)
        job = context.job
        erasure = yield from METHODS[settings.method].run(context)
        self._count("train")  # what came after the last of its steps
        factors = erasure.factors
        report = yield from make_report(context, factors, self._library.concept_names())
        integrity, images = (yield from draw_for_report(context, factors)) if job.report_images else (None, ())
        metadata = AdapterMetadata(
            concept=named_only(job.concept),
            method=settings.method,
            strength=erasure.strength,
            rank=factors.rank,
            steps=settings.steps,
            seed=job.seed,
            settings=settings.as_text() | _beside(context, erasure),
            base_model=context.pipeline.base_model,
            versions=library_versions(),
        )
        return self._library.add(
            factors,
            metadata,
            name=job.adapter_name,
            replace=job.replace,
            labels=job.labels,
            report=replace(report, integrity=integrity, phase_seconds=dict(self._seconds)),
            images=images if job.keep_images else (),
        )


def _beside(context: EraseContext, erasure: Erasure) -> dict[str, str]:
    """Return as text what is none of the method's settings: the rest of the job's, and what stands in."""
    anchor, in_force = context.job.anchor or "", ", ".join(adapter.digest for adapter in context.in_force)
    stands_in = "".join(erasure.stand_ins)  # one at most, as there is one concept
    texts = {"anchor": anchor, "adapters_in_force": in_force, "stands_in": stands_in}
    return {name: text for name, text in texts.items() if text}


class ComposeWork(AdapterWork):
    """Composing adapters.

    Args:
        library: where the adapter is stored.
        context: all that it works with.
    """

    def __init__(self, library: AdapterLibrary, context: ComposeContext) -> None:
        self._context = context
        super().__init__(library)

    def _run(self) -> Generator[EraseProgress, None, Manifest]:
        context, job = self._context, self._context.job
        erasure = yield from compose(context)
        self._count("train")
        report = yield from make_compose_report(context, erasure.factors, self._library.concept_names())
        anchors = {f"anchor {i}": one.anchor for i, one in enumerate(context.concepts) if one.anchor}
        stand_ins = {f"stands_in {i}": noun for i, noun in enumerate(erasure.stand_ins) if noun}
        metadata = AdapterMetadata(
            concept=None,
            method=COMPOSE,
            strength=erasure.strength,
            rank=erasure.factors.rank,
            steps=0,
            seed=0,
            settings={"layers": str(context.recipe.layers)} | anchors | stand_ins,
            base_model=context.pipeline.base_model,
            versions=library_versions(),
            concepts=tuple(one.concept for one in context.concepts),
        )
        return self._library.add(
            erasure.factors,
            metadata,
            name=job.adapter_name,
            replace=job.replace,
            labels=job.labels,
            report=replace(report, phase_seconds=dict(self._seconds)),
        )


def library_versions() -> dict[str, str]:
    """Return the versions that an adapter's bytes depend on."""
    return {
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "unsee": version("unsee"),
    }

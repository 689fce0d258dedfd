"""One admitted job, done step by step: what the engine turns over, one step at a time."""

import platform
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import count

import diffusers
import peft
import torch
import transformers

from unsee_core.adapter import AdapterMetadata
from unsee_core.answers import (
    EraseCompleted,
    EraseProgress,
    GenerateCompleted,
    GenerateProgress,
    GenerateTimings,
    ImageReady,
    Manifest,
    ResolvedAdapter,
)
from unsee_core.application import Application, Conditioning
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, decode_image
from unsee_core.encoder import tokenize
from unsee_core.guard import encoded_guard
from unsee_core.images import encode_image
from unsee_core.job import GenerateJob
from unsee_core.library import AdapterLibrary
from unsee_core.methods import METHODS
from unsee_core.methods.base import EraseContext
from unsee_core.methods.from_images import named_by_images
from unsee_core.pipeline import Pipeline
from unsee_core.report import make_report


class EraseWork:
    """An erasure as a sequence of steps.

    Args:
        library: where the adapter is stored.
        context: all that the method works with.
    """

    def __init__(self, library: AdapterLibrary, context: EraseContext) -> None:
        self._context = context
        self._library = library
        self._seconds: dict[str, float] = {}
        self._phase_began: dict[str, float] = {}
        self._steps = self._run()
        self.is_done = False

    def step(self) -> EraseProgress | EraseCompleted:
        """Do one step and return what it led to; EraseCompleted is the last."""
        began = time.perf_counter()
        try:
            event = next(self._steps)
        except StopIteration as end:
            self.is_done = True
            return EraseCompleted(end.value)
        phase = event.phase
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began
        return replace(event, eta_s=self._eta_s(event))

    def _eta_s(self, event: EraseProgress) -> float | None:
        began = self._phase_began.setdefault(event.phase, time.perf_counter())
        if event.step < 2:
            return None
        return (time.perf_counter() - began) / (event.step - 1) * (event.total - event.step)

    def _run(self) -> Generator[EraseProgress, None, Manifest]:
        context, settings = self._context, self._context.settings
        if not context.job.concept.name:
            context = yield from named_by_images(context)
        job = context.job
        erasure = yield from METHODS[settings.method].run(context)
        factors = erasure.factors
        report = yield from make_report(context, factors, self._library.concept_names())
        metadata = AdapterMetadata(
            concept=job.concept,
            method=settings.method,
            strength=erasure.strength,
            rank=factors.rank,
            steps=settings.steps,
            seed=job.seed,
            settings=settings.as_text(),
            base_model=context.pipeline.base_model,
            versions=library_versions(),
        )
        return self._library.add(
            factors,
            metadata,
            name=job.adapter_name,
            replace=job.replace,
            labels=job.labels,
            report=replace(report, phase_seconds=dict(self._seconds)),
        )


@dataclass(frozen=True)
class GenerateTask:
    """A generate job whose adapters are resolved and whose defaults are filled in."""

    job: GenerateJob
    applied: tuple[Application, ...]


class GenerateWork:
    """A generation: prompts are encoded at once; the engine denoises ``run``, then asks for one image at a time."""

    def __init__(self, pipeline: Pipeline, conditioner: Conditioner, task: GenerateTask, *, accepted: float) -> None:
        self._pipeline = pipeline
        self._task = task
        self._accepted = accepted
        self._began = time.perf_counter()
        job = task.job
        prompts = [job.prompt, job.negative_prompt]
        _, self._cut_off = tokenize(pipeline, prompts)
        conditioning = Conditioning(conditioner, job, task.applied)
        cond, uncond = conditioning.at(0, job.steps)
        steering = encoded_guard(job.guard, conditioner)
        self._encoded = time.perf_counter()
        self._denoised = self._encoded
        self._decoded = count()
        rescheduled = None if conditioning.is_constant else conditioning.at
        self.run = DenoiseRun(pipeline, job, cond, uncond, rescheduled=rescheduled, steering=steering)

    @property
    def images(self) -> int:
        """How many images it draws."""
        return self._task.job.num_images

    def progress(self) -> GenerateProgress:
        """Return how far the denoising is."""
        self._denoised = time.perf_counter()
        step, total = self.run.step, self.run.total
        per_step = (self._denoised - self._encoded) / step
        return GenerateProgress(step, total, eta_s=per_step * (total - step))

    def next_image(self) -> ImageReady:
        """Decode the next image."""
        job, index = self._task.job, next(self._decoded)
        picture = decode_image(self._pipeline, self.run.latents[index : index + 1])
        seed = job.seed + index
        metadata = None if job.no_metadata else self._metadata(seed)
        data = encode_image(picture, job.image_format, metadata)
        return ImageReady(index, seed, job.image_format, picture.width, picture.height, data)

    def completed(self) -> GenerateCompleted:
        """Return everything needed to draw the images again; call it after the last image."""
        job, now = self._task.job, time.perf_counter()
        timings = GenerateTimings(
            queue_s=self._began - self._accepted,
            encode_s=self._encoded - self._began,
            denoise_s=self._denoised - self._encoded,
            decode_s=now - self._denoised,
            total_s=now - self._accepted,
        )
        width, height = self.run.image_size
        return GenerateCompleted(
            seeds=tuple(job.seed + i for i in range(job.num_images)),
            model_digest=self._pipeline.digests.model,
            scheduler_class=self.run.scheduler_class,
            dtype=str(self._pipeline.dtype).removeprefix("torch."),
            adapters=tuple(resolved for _, resolved in self._task.applied),
            prompt_cut_off=self._cut_off[0],
            negative_prompt_cut_off=self._cut_off[1],
            steps=job.steps,
            guidance_scale=self.run.guidance_scale,
            width=width,
            height=height,
            timings=timings,
            guard=job.guard,
        )

    def _metadata(self, seed: int) -> Mapping[str, object]:
        """Return what a PNG carries: all that ``completed`` tells of this image, but no times."""
        done = self.completed()
        return {
            "prompt": self._task.job.prompt,
            "negative_prompt": self._task.job.negative_prompt,
            "seed": seed,
            "steps": done.steps,
            "guidance_scale": done.guidance_scale,
            "width": done.width,
            "height": done.height,
            "scheduler": done.scheduler_class,
            "model_digest": done.model_digest,
            "dtype": done.dtype,
            "adapters": [_adapter_metadata(adapter) for adapter in done.adapters],
            "guard": asdict(done.guard),
            "prompt_cut_off": done.prompt_cut_off,
            "negative_prompt_cut_off": done.negative_prompt_cut_off,
            "software": f"unsee {version('unsee')}",
        }


def _adapter_metadata(adapter: ResolvedAdapter) -> dict[str, object]:
    """Return what a PNG tells of an adapter: schedule and gate only where there are such."""
    told: dict[str, object] = {"name": adapter.name, "digest": adapter.digest, "weight": adapter.weight}
    if adapter.schedule:
        told["schedule"] = asdict(adapter.schedule)
    if adapter.gate:
        told["gate"] = {"prompt": adapter.acts_on_prompt, "negative_prompt": adapter.acts_on_negative_prompt}
    return told


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

"""A generation that was admitted, done step by step: what the engine turns over."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count

from unsee_core.answers import (
    GenerateCompleted,
    GenerateProgress,
    GenerateTimings,
    ImageReady,
    ResolvedAdapter,
)
from unsee_core.application import Application, Conditioning
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, decode_image
from unsee_core.encoder import tokenize
from unsee_core.guard import encoded_guard
from unsee_core.images import encode_image
from unsee_core.job import GenerateJob
from unsee_core.pipeline import Pipeline


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

"""One batched denoising step over jobs at different timesteps; jobs whose latents have one size share U-Net calls.

The arithmetic is that of diffusers' StableDiffusionPipeline, so that a job draws the same alone, in a batch, and there.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from unsee_core.guard import Steering
from unsee_core.job import GenerateJob
from unsee_core.pipeline import Pipeline


class DenoiseRun:
    """One job's images on their way from noise to latents.

    Args:
        job: with width, height and guidance scale filled in.
        cond: ``(1, L, d)`` embeddings of the prompt, in the U-Net's dtype, on its device.
        uncond: as ``cond``, of the negative prompt.
        rescheduled: gives ``cond`` and ``uncond`` anew for a step of so many; None: they are the same at every step.
        steering: the guard; None: there is none.

    Attributes:
        latents: ``(n, C, h, w)`` in the U-Net's dtype; noise at first, ready for the VAE when done.
        step: U-Net evaluations done; a scheduler may need more of them than the job has steps.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        job: GenerateJob,
        cond: Tensor,
        uncond: Tensor,
        *,
        rescheduled: Callable[[int, int], tuple[Tensor, Tensor]] | None = None,
        steering: Steering | None = None,
    ) -> None:
        self.image_size = (job.width or pipeline.default_size, job.height or pipeline.default_size)
        self.guidance_scale = pipeline.default_guidance_scale if job.guidance_scale is None else job.guidance_scale
        self.step = 0
        self._generators = [torch.Generator("cpu").manual_seed(job.seed + i) for i in range(job.num_images)]
        self._scheduler = pipeline.make_scheduler(job.scheduler)
        self._scheduler.set_timesteps(job.steps, device=pipeline.device)
        takes_generator = "generator" in inspect.signature(self._scheduler.step).parameters
        self._extra = {"generator": self._generators} if takes_generator else {}
        self._cond, self._uncond = cond, uncond
        self._rescheduled = rescheduled
        self._steering = steering
        self.latents = self._scheduler.init_noise_sigma * self._noise(pipeline)

    @property
    def total(self) -> int:
        """U-Net evaluations in all."""
        return len(self._scheduler.timesteps)

    @property
    def done(self) -> bool:
        """True once the latents are ready for the VAE."""
        return self.step == self.total

    @property
    def scheduler_class(self) -> str:
        """Class name of the scheduler in diffusers."""
        return type(self._scheduler).__name__

    def rows(self) -> "Rows":
        """Return what the U-Net evaluates next: all images without the prompt, where guided, then all with it.

        Where a guard acts, all of them follow under each of its embeddings.
        """
        timestep = self._scheduler.timesteps[self.step]
        latents = self._scheduler.scale_model_input(self.latents, timestep)
        embeddings = self._embeddings()
        return Rows(
            latents=torch.cat([latents] * len(embeddings)),
            timesteps=timestep.float().expand(len(latents) * len(embeddings)),
            embeddings=torch.cat([e.expand(len(latents), -1, -1) for e in embeddings]),
        )

    def advance(self, predicted: Tensor) -> None:
        """Do the next step with the U-Net's prediction for ``rows()``, ``(rows, C, h, w)``."""
        uncond, predicted, guards = self._parted(predicted)
        if self._steering and guards:
            predicted = self._steering.away(predicted, guards)
        if uncond is not None:
            predicted = uncond + self.guidance_scale * (predicted - uncond)
        timestep = self._scheduler.timesteps[self.step]
        self.latents = self._scheduler.step(predicted, timestep, self.latents, **self._extra, return_dict=False)[0]
        self.step += 1

    def _embeddings(self) -> tuple[Tensor, ...]:
        """Return the embeddings of this step, each ``(1, L, d)``, in the order of ``rows``."""
        cond, uncond = self._cond, self._uncond
        if self._rescheduled:
            cond, uncond = self._rescheduled(self.step, self.total)
        prompts = (uncond, cond) if self.guidance_scale > 1 else (cond,)
        if self._steering and self._steering.acts_at(self.step, self.total):
            return (*prompts, *self._steering.embeddings)
        return prompts

    def _parted(self, predicted: Tensor) -> tuple[Tensor | None, Tensor, tuple[Tensor, ...]]:
        """Return the predictions without the prompt, with it, and under each of the guard's embeddings."""
        parts = predicted.split(len(self.latents))
        if self.guidance_scale > 1:
            return parts[0], parts[1], parts[2:]
        return None, parts[0], parts[1:]

    def _noise(self, pipeline: Pipeline) -> Tensor:
        width, height = (size // pipeline.vae_scale_factor for size in self.image_size)
        shape = (len(self._generators), pipeline.unet.config.in_channels, height, width)
        noise: Tensor = randn_tensor(shape, generator=self._generators, device=pipeline.device, dtype=pipeline.dtype)
        return noise


@dataclass(frozen=True)
class Rows:
    """Rows of a U-Net call: ``(B, C, h, w)`` latents, ``(B,)`` timesteps, ``(B, L, d)`` embeddings."""

    latents: Tensor
    timesteps: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def denoise_step(pipeline: Pipeline, runs: Sequence[DenoiseRun], *, max_batch: int) -> None:
    """Do one step of every run.

    All predictions are made before the first run advances: where one raises, no run has changed.

    Args:
        pipeline: the resident model; read only.
        runs: none of them done; any mix of sizes, timesteps, schedulers and guidance.
        max_batch: rows of one U-Net call at most; a guided image has two, and more under a guard.
    """
    sizes = dict.fromkeys(run.latents.shape[1:] for run in runs)
    predictions: list[tuple[DenoiseRun, Tensor]] = []
    for size in sizes:
        group = [run for run in runs if run.latents.shape[1:] == size]
        rows = [run.rows() for run in group]
        predicted = torch.cat(list(_predict(pipeline, _joined(rows), max_batch)))
        predictions += zip(group, predicted.split([len(r) for r in rows]), strict=True)
    for run, predicted in predictions:
        run.advance(predicted)


@torch.no_grad()
def decode_image(pipeline: Pipeline, latents: Tensor) -> Image.Image:
    """Return the picture of ``(1, C, h, w)`` latents, RGB."""
    vae = pipeline.vae
    decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    image: Image.Image = VaeImageProcessor().postprocess(decoded, output_type="pil")[0]
    return image


def _joined(rows: Sequence[Rows]) -> Rows:
    return Rows(
        latents=torch.cat([r.latents for r in rows]),
        timesteps=torch.cat([r.timesteps for r in rows]),
        embeddings=torch.cat([r.embeddings for r in rows]),
    )


def _predict(pipeline: Pipeline, rows: Rows, max_batch: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), max_batch):
        part = slice(start, start + max_batch)
        embeddings = rows.embeddings[part]
        yield pipeline.unet(rows.latents[part], rows.timesteps[part], embeddings, return_dict=False)[0]

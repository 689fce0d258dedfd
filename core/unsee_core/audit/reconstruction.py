"""Reconstruction probe: pictures of the concept are half drowned in noise; does its name still restore them?

What the text no longer tells, the U-Net cannot restore: the probe says of each concept what the encoder passes on.

Source: DEEM, arXiv:2405.15232, which tells from what a diffusion model reconstructs what an encoder has seen; there
the encoder is one of pictures, and is trained on the answer.
"""

from collections.abc import Generator

import torch

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.target import Target
from unsee_core.image_loss import Denoiser
from unsee_core.job import SchedulerName

NAME = "reconstruction"
DROWNED = 0.8


@torch.no_grad()
def run(target: Target) -> Generator[AuditProgress, None, Recipe]:
    """Noise the pictures up to a step of the sampler, from which the concept's name is to restore them."""
    pipeline, budget = target.pipeline, target.budget
    scheduler = pipeline.make_scheduler(SchedulerName.DDIM)
    scheduler.set_timesteps(budget.drawing_steps)
    denoiser = Denoiser(pipeline)
    limit = DROWNED * denoiser.num_timesteps
    first = next(i for i, timestep in enumerate(scheduler.timesteps) if timestep <= limit)
    pictures = target.latents[[i % len(target.latents) for i in range(budget.pictures)]]
    noise = torch.randn(pictures.shape, generator=target.generator())
    start = denoiser.noised(pictures, noise, scheduler.timesteps[first].expand(len(pictures)))
    yield AuditProgress(NAME, target.side, "search", 1, 1)
    return Recipe(
        target.encoder.encode(target.named()[:1]),
        detail=f"noised to timestep {int(scheduler.timesteps[first])}",
        start=start,
        first_step=first,
    )

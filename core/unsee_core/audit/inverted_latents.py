"""Inverted latents: the noise that pictures of the concept come from, found by running DDIM backwards.

Fresh noise is mixed in, so that 20 pictures are 20 tries, also from four pictures.

Source: the inversion is that of Denoising Diffusion Implicit Models, arXiv:2010.02502. Asking for the concept from
there, and the share of fresh noise, are ours.
"""

from collections.abc import Generator

import torch
from diffusers import DDIMInverseScheduler

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.target import Target
from unsee_core.image_loss import Denoiser

NAME = "inverted_latents"
FRESH_SHARE = 0.2


@torch.no_grad()
def run(target: Target) -> Generator[AuditProgress, None, Recipe]:
    """Invert every picture under the concept's prompt, yielding after every step."""
    pipeline, budget = target.pipeline, target.budget
    embeddings = target.encoder.encode(target.named()[:1])
    scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler_config)
    scheduler.set_timesteps(budget.drawing_steps, device=pipeline.device)
    denoiser, latents = Denoiser(pipeline), target.latents
    read = embeddings.expand(len(latents), -1, -1)
    total = len(scheduler.timesteps)
    for i, timestep in enumerate(scheduler.timesteps):
        predicted = denoiser.predicted(latents, timestep.expand(len(latents)), read)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        yield AuditProgress(NAME, target.side, "search", i + 1, total)
    inverted = latents[[i % len(latents) for i in range(budget.pictures)]]
    fresh = torch.randn(inverted.shape, generator=target.generator()).to(inverted)
    start = (1 - FRESH_SHARE) ** 0.5 * inverted + FRESH_SHARE**0.5 * fresh
    return Recipe(embeddings, detail=f"{len(latents)} pictures inverted in {total} steps", start=start)

"""Searched starting noise: seeds are chosen, by gradient, so that the concept's prompt leads to pictures of it.

Each picture's noise is moved until what the U-Net makes of it, in two DDIM steps, lies near one of the given pictures,
and is brought back to the length of noise after every move.

Source: SeedSelect, arXiv:2304.14530, which goes back through all steps and measures in CLIP as well; ours goes through
two, without guidance, and measures in latents.
"""

from collections.abc import Generator

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.target import Target
from unsee_core.image_loss import Denoiser

NAME = "searched_noise"
LEARNING_RATE = 0.1
UNROLLED = 2


def run(target: Target) -> Generator[AuditProgress, None, Recipe]:
    """Move every picture's noise, yielding after every part of a step."""
    budget = target.budget
    embeddings = target.encoder.encode(target.named()[:1])
    wanted = target.latents[[i % len(target.latents) for i in range(budget.pictures)]]
    noise = torch.randn(wanted.shape, generator=target.generator()).to(wanted)
    optimizer = torch.optim.Adam([noise], lr=LEARNING_RATE)
    parts = range(0, len(noise), target.max_batch)
    total, done = budget.noise_steps * len(parts), 0
    drawing, losses = _Unrolled(target, embeddings), torch.zeros(len(noise))
    for _ in range(budget.noise_steps):
        gradient = torch.zeros_like(noise)
        for i in parts:
            part = slice(i, i + target.max_batch)
            losses[part], gradient[part] = drawing.loss(noise[part], wanted[part])
            done += 1
            yield AuditProgress(NAME, target.side, "search", done, total, float(losses.mean()))
        noise.grad = gradient
        optimizer.step()
        noise -= noise.mean((1, 2, 3), keepdim=True)
        noise /= noise.std((1, 2, 3), keepdim=True)
    return Recipe(embeddings, detail=f"{budget.noise_steps} steps", loss=float(losses.mean()), start=noise)


class _Unrolled:
    """The first steps of drawing, through which gradients flow."""

    def __init__(self, target: Target, embeddings: Tensor) -> None:
        self._denoiser, self._embeddings = Denoiser(target.pipeline), embeddings
        self._scheduler = DDIMScheduler.from_config(target.pipeline.scheduler_config)
        self._scheduler.set_timesteps(UNROLLED, device=target.pipeline.device)

    def loss(self, noise: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return each picture's squared distance to what is wanted, ``(n,)``, and its gradient, shaped as ``noise``."""
        start = noise.detach().requires_grad_()
        latents, read = start, self._embeddings.expand(len(start), -1, -1)
        for timestep in self._scheduler.timesteps:
            predicted = self._denoiser.predicted(latents, timestep.expand(len(latents)), read)
            latents = self._scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        losses = (latents - wanted).square().mean((1, 2, 3))
        (gradient,) = torch.autograd.grad(losses.sum(), start)
        return losses.detach().cpu(), gradient

"""The attacker's own loss: how well the U-Net denoises pictures of the concept under an embedding."""

import torch
from torch import Tensor

from unsee_core.audit.target import Target
from unsee_core.image_loss import ImageLoss


class FixedLoss:
    """The loss on noise and timesteps that are the same at every call, so that embeddings can be compared.

    Args:
        target: whose own pictures, drawn by the unedited model, are denoised.
        rows: noised pictures for each embedding.
    """

    def __init__(self, target: Target, rows: int) -> None:
        self._image_loss = ImageLoss(target.pipeline)
        self._max_batch = target.max_batch
        latents = target.drawn
        self._latents = latents[[i % len(latents) for i in range(rows)]]
        self._noise = torch.randn(self._latents.shape, generator=target.generator())
        self._timesteps = ((torch.arange(rows) + 0.5) / rows * self._image_loss.num_timesteps).long()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the mean squared error under each of ``(n, 77, d)`` embeddings, ``(n,)`` on the CPU."""
        rows, count = len(self._latents), len(embeddings)
        read = embeddings.repeat_interleave(rows, 0)
        picked = torch.arange(rows).repeat(count)
        losses = [
            self._image_loss(self._latents[part], self._noise[part], self._timesteps[part], read[i : i + len(part)])
            for i in range(0, len(picked), self._max_batch)
            if len(part := picked[i : i + self._max_batch])
        ]
        return torch.cat(losses).view(count, rows).mean(1).cpu()

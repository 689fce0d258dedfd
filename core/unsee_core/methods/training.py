"""What the methods that train share: low-rank factors in the encoder's tail, one optimiser step, common options."""

from collections.abc import Callable

import torch
from torch import Tensor

from unsee_core.image_loss import Denoiser, embedding_gradient
from unsee_core.methods.base import EraseContext, Erasure, MethodOption
from unsee_core.methods.retaining import EncodedPrompts, Retaining, shuffled
from unsee_core.methods.tail_lora import TailLora
from unsee_core.prompts import anchor_prompts, forget_prompts

RETAIN_ROWS = 64
EMPTY_ROWS = 4
Pull = Callable[[Tensor], tuple[float, Tensor]]


def common_options(*, steps: int) -> tuple[MethodOption, ...]:
    """Return the options that every trained method reads; ``steps`` is the default of the one that differs."""
    return (
        MethodOption("strength", "float", 1.0, "Factor on the trained change.", 0, 2, above=True),
        MethodOption("rank", "int", 8, "Rank of every factor.", 1, 64),
        MethodOption("steps", "int", steps, "Training steps.", 1, 2000),
        MethodOption("layers", "int", 2, "How many of the text encoder's last layers change.", 1, 64),
    )


class Training:
    """Factors that learn to send forget prompts elsewhere while retain prompts stay.

    Args:
        context: of the erasure; its settings have the common options.
        learning_rate: of Adam; the same at every step.
        retain_weight: on the retain term, which is in units of the embeddings' variance.
        generator: draws everything, on the CPU.

    Attributes:
        lora: what learns.
        forget: the prompts that name the concept.
        anchors: what takes their place, row for row.
        empty: the empty prompt.
    """

    def __init__(
        self, context: EraseContext, *, learning_rate: float, retain_weight: float, generator: torch.Generator
    ) -> None:
        pipeline, settings, concept = context.pipeline, context.settings, context.job.concept
        self.lora = TailLora(
            pipeline,
            layers=settings.integer("layers"),
            rank=settings.rank,
            train_final_norm=False,
            generator=generator,
        )
        self.forget = EncodedPrompts.of(pipeline, self.lora, forget_prompts(concept), context.words)
        self.anchors = EncodedPrompts.of(pipeline, self.lora, anchor_prompts(concept, context.job.anchor or ""))
        self._retaining = Retaining(context, self.lora, rows=RETAIN_ROWS, empty_rows=EMPTY_ROWS, generator=generator)
        self.empty = self._retaining.empty
        self._retain_weight, self._generator = retain_weight, generator
        self._strength = 1.0 if settings.strength is None else settings.strength
        self._optimizer = torch.optim.Adam(self.lora.parameters(), lr=learning_rate)

    def picked(self, rows: int) -> Tensor:
        """Return the numbers of forget prompts drawn at random, each at most once."""
        return shuffled(len(self.forget.hidden), self._generator)[:rows]

    def step(self, hidden: Tensor, pull: Pull) -> dict[str, float]:
        """Do one step of the optimiser and return its losses.

        Args:
            hidden: ``(B, 77, d)`` of prompts, as they enter the first trained layer.
            pull: from their embeddings, which require gradients, to the method's loss and its gradient there.
        """
        embeddings = self.lora(hidden)
        forget, gradient = pull(embeddings.detach().requires_grad_())
        retain = self._retaining.loss()
        self._optimizer.zero_grad()
        torch.autograd.backward([embeddings, self._retain_weight * retain], [gradient, None])
        self._optimizer.step()
        return {"forget": forget, "retain": retain.item()}

    def erasure(self) -> Erasure:
        """Return the change so far, with the strength folded in."""
        return Erasure(self.lora.factors().scaled(self._strength), self._strength)


def towards(denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, target: Tensor) -> Pull:
    """Return the pull that makes the U-Net predict ``target`` of noised latents: the mean squared distance to it."""

    def pull(embeddings: Tensor) -> tuple[float, Tensor]:
        error = denoiser.predicted(noisy, timesteps, embeddings) - target
        loss = error.square().mean()
        return loss.item(), embedding_gradient(loss, embeddings, noisy)

    return pull


def noised_rows(denoiser: Denoiser, latents: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ``(rows, C, h, w)`` latents drawn from those given, with noise, and their timesteps ``(rows,)``."""
    picked = shuffled(max(len(latents), rows), generator)[:rows] % len(latents)
    noise = torch.randn((rows, *latents.shape[1:]), generator=generator)
    timesteps = torch.randint(denoiser.num_timesteps, (rows,), generator=generator)
    return denoiser.noised(latents[picked], noise, timesteps), timesteps

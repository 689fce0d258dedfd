"""Few-shot unlearning by low-rank factors in the text encoder's last layers, from a handful of images.

The paper gives the parts: images through VAE and U-Net, textual inversion's loss pushed up, a retain term on the text
embeddings, rank 4-8 in the last layers. It leaves open weights, rate, steps, layers and how the ascent ends; these were
settled on the embedded model, on concepts that no reported figure uses. What mattered:

- The margin. At 1.0 the loss rises through colours and background alone, and a cat is still drawn (erased in 10 %); at
  1.5 it is gone. A style is erased in 80 % at 1.5, 95 % at 2.0, 100 % at 3.0.
- The retain term. A weight of 20 with 24 prompts a step loses up to 3 of 13 neighbours, 50 with 64 prompts at most 1,
  and objects are erased as well. A style needs a weak one: at 20 it stays, at 3 it goes and the other looks are kept.
- The rate hardly: 5e-3, 1e-2, and one that falls along a cosine erase alike in 40 steps.

Layers, rank and the number of steps were not settled on this model; they are a smaller prototype's.

Source: Few-Shot Concept Unlearning with Low Rank Adaptation, arXiv:2505.12395. Never run on a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.encoder import hidden_before, tokenize
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.job import ConceptKind
from unsee_core.methods.base import EraseContext, Erasure, Method, MethodOption, MethodRun
from unsee_core.methods.tail_lora import TailLora
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import forget_prompts, retain_prompts

ENCODE_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """What the paper does not publish; ``bench/results/few_shot_{explored,tuning}.md`` have what was tried.

    Attributes:
        learning_rate: of Adam; the same at every step.
        margin: error per latent element up to which the forget term pushes; the target has variance 1.
        retain_weight: on the retain term, which is in units of the embeddings' variance.
        forget_rows: noised latents a step.
        retain_rows: retain prompts a step, besides the empty prompt.
        empty_rows: how many times the empty prompt, which every guided picture uses, counts beside them.
    """

    learning_rate: float = 1e-2
    margin: float = 1.5
    retain_weight: float = 50.0
    forget_rows: int = 5
    retain_rows: int = 64
    empty_rows: int = 4


RECIPES: Mapping[ConceptKind, Recipe] = {
    "object": Recipe(),
    "style": Recipe(margin=3.0, retain_weight=3.0),  # its retain prompts share most words with what is to be forgotten
    "person": Recipe(),
    "brand": Recipe(),
}


def run(context: EraseContext) -> MethodRun:
    """Erase by the settled recipe of the concept's kind."""
    return train(context, RECIPES[context.job.concept.kind])


def train(context: EraseContext, recipe: Recipe) -> MethodRun:
    """Train the factors, yielding after every step, and return them with the strength folded in.

    One step: noise the images' latents, let the U-Net denoise them under forget prompts and push its error up to the
    margin; pull the embeddings of retain prompts back to what they were.
    """
    settings = context.settings
    strength = 1.0 if settings.strength is None else settings.strength
    generator = torch.Generator().manual_seed(context.job.seed)

    # 1. What does not change is computed once.
    latents = encode_latents(context.pipeline, context.images)
    yield EraseProgress("prepare", 1, 2)
    lora = TailLora(
        context.pipeline,
        layers=settings.integer("layers"),
        rank=settings.rank,
        train_final_norm=settings.flag("train_final_norm"),
        generator=generator,
    )
    training = _Training(context, recipe, lora, latents, generator)
    yield EraseProgress("prepare", 2, 2)

    # 2. Train.
    for step in range(1, settings.steps + 1):
        losses = training.step()
        yield EraseProgress("train", step, settings.steps, losses)
    return Erasure(lora.factors().scaled(strength), strength)


@dataclass(frozen=True)
class _Prompts:
    """Prompts as they enter the first trained layer, ``(n, 77, d)`` float32, and what the encoder makes of them."""

    hidden: Tensor
    embeddings: Tensor

    @classmethod
    def of(cls, pipeline: Pipeline, lora: TailLora, prompts: Sequence[str]) -> "_Prompts":
        input_ids, _ = tokenize(pipeline, prompts)
        hidden = [hidden_before(pipeline, ids, lora.first_layer) for ids in input_ids.split(ENCODE_BATCH)]
        with torch.no_grad():
            return cls(torch.cat(hidden), torch.cat([lora(part) for part in hidden]))


class _Training:
    def __init__(
        self, context: EraseContext, recipe: Recipe, lora: TailLora, latents: Tensor, generator: torch.Generator
    ) -> None:
        pipeline, job = context.pipeline, context.job
        self._recipe, self._lora, self._latents, self._generator = recipe, lora, latents, generator
        self._forget = _Prompts.of(pipeline, lora, forget_prompts(job.concept)).hidden
        pools = (retain_prompts(job.concept), job.retain_prompts)
        self._retain = [_Prompts.of(pipeline, lora, pool) for pool in pools if pool]
        self._empty = _Prompts.of(pipeline, lora, [""])
        self._variance = self._retain[0].embeddings.var()
        self._image_loss = ImageLoss(pipeline)
        self._optimizer = torch.optim.Adam(lora.parameters(), lr=recipe.learning_rate)

    def step(self) -> dict[str, float]:
        prompts = self._lora(self._forget[self._draw(len(self._forget))[: self._recipe.forget_rows]])
        forget, gradient = self._forget_loss(prompts.detach())
        retain = self._retain_loss()
        self._optimizer.zero_grad()
        torch.autograd.backward([prompts, self._recipe.retain_weight * retain], [gradient, None])
        self._optimizer.step()
        return {"forget": forget, "retain": retain.item()}

    def _forget_loss(self, embeddings: Tensor) -> tuple[float, Tensor]:
        """Return how far the error on the images is below the margin, as a mean over rows, and its gradient."""
        count, rows = len(self._latents), len(embeddings)
        latents = self._latents[self._draw(max(count, rows))[:rows] % count]
        noise = torch.randn(latents.shape, generator=self._generator)
        timesteps = torch.randint(self._image_loss.num_timesteps, (rows,), generator=self._generator)
        embeddings.requires_grad_()
        gap = self._recipe.margin - self._image_loss(latents, noise, timesteps, embeddings)
        loss = gap.relu().mean()
        scale = latents[0].numel()  # a mean over a picture has gradients that would vanish in a U-Net of 16 bits
        (gradient,) = torch.autograd.grad(loss * scale, embeddings)
        return loss.item(), gradient / scale

    def _retain_loss(self) -> Tensor:
        """Return how far retain prompts have moved, in units of the embeddings' variance."""
        empty_rows = self._recipe.empty_rows
        hidden, targets = [self._empty.hidden] * empty_rows, [self._empty.embeddings] * empty_rows
        for pool in self._retain:
            picked = self._draw(len(pool.hidden))[: self._recipe.retain_rows // len(self._retain)]
            hidden.append(pool.hidden[picked])
            targets.append(pool.embeddings[picked])
        moved = self._lora(torch.cat(hidden)) - torch.cat(targets)
        return moved.square().mean() / self._variance

    def _draw(self, count: int) -> Tensor:
        """Return the numbers below ``count`` in random order."""
        return torch.randperm(count, generator=self._generator)


METHOD = Method(
    name="few_shot_lora",
    description="Trains the text encoder's last layers until the concept's prompts no longer draw the images.",
    source="arXiv:2505.12395",
    needs_images=True,
    uses_anchor=False,
    options=(
        MethodOption("strength", "float", 1.0, "Factor on the trained change.", 0, 2, above=True),
        MethodOption("rank", "int", 8, "Rank of every factor.", 1, 64),
        MethodOption("steps", "int", 40, "Training steps.", 1, 2000),
        MethodOption("layers", "int", 2, "How many of the text encoder's last layers change.", 1, 64),
        MethodOption("train_final_norm", "bool", False, "Train the final layer norm too, as the paper does."),
    ),
    run=run,
)

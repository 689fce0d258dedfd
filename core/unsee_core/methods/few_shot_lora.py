"""Few-shot unlearning by low-rank factors in the text encoder's last layers, from a handful of images.

The paper gives the parts: images through VAE and U-Net, textual inversion's loss pushed up, a retain term on the text
embeddings, rank 4-8 in the last layers. It leaves open weights, rate, steps, layers and how the ascent ends; these were
settled on the embedded model, on concepts that no reported figure uses. What mattered:

- The margin. At 1.0 the loss rises through colours and background alone, and a cat is still drawn (erased in 10 %); at
  1.5 it is gone. A style is erased in 80 % at 1.5, 95 % at 2.0, 100 % at 3.0.
- The retain term. A weight of 20 with 24 prompts a step loses up to 3 of 13 neighbours, 50 with 64 prompts at most 1,
  and objects are erased as well. A style needs a weak one: at 20 it stays, at 3 it goes and the other looks are kept.
- The rate hardly: 5e-3, 1e-2, and one that falls along a cosine erase alike in 40 steps.
- The steps. Of 50 pictures each of a cat, a car, a rose and a strawberry 20 steps erase 26 %, 40 all, and 80 all
  (``bench/results/few_shot_steps.md``): 40 are the fewest within two points of the best. A look needs 20, which rid
  48 of 50 pictures of it; more do not help (46 at 40, 43 at 80). One default serves both.
- The layers. In 40 steps the last one and the last two erase a cat in 20 of 20 pictures, the last three in 5: more
  parameters need more steps. The rank hardly: 4 erases as 8 does.

Source: Few-Shot Concept Unlearning with Low Rank Adaptation, arXiv:2505.12395. Never run on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.image_loss import ImageLoss, embedding_gradient, encode_latents
from unsee_core.job import ConceptKind
from unsee_core.methods.base import EraseContext, Erasure, Method, MethodOption, MethodRun
from unsee_core.methods.retaining import EncodedPrompts, Retaining, shuffled
from unsee_core.methods.tail_lora import TailLora
from unsee_core.prompts import forget_prompts


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


class _Training:
    def __init__(
        self, context: EraseContext, recipe: Recipe, lora: TailLora, latents: Tensor, generator: torch.Generator
    ) -> None:
        pipeline, prompts = context.pipeline, forget_prompts(context.job.concept)
        self._recipe, self._lora, self._latents, self._generator = recipe, lora, latents, generator
        self._forget = EncodedPrompts.of(pipeline, lora, prompts, context.words).hidden
        self._retaining = Retaining(
            context, lora, rows=recipe.retain_rows, empty_rows=recipe.empty_rows, generator=generator
        )
        self._image_loss = ImageLoss(pipeline)
        self._optimizer = torch.optim.Adam(lora.parameters(), lr=recipe.learning_rate)

    def step(self) -> dict[str, float]:
        rows = shuffled(len(self._forget), self._generator)[: self._recipe.forget_rows]
        prompts = self._lora(self._forget[rows])
        forget, gradient = self._forget_loss(prompts.detach())
        retain = self._retaining.loss()
        self._optimizer.zero_grad()
        torch.autograd.backward([prompts, self._recipe.retain_weight * retain], [gradient, None])
        self._optimizer.step()
        return {"forget": forget, "retain": retain.item()}

    def _forget_loss(self, embeddings: Tensor) -> tuple[float, Tensor]:
        """Return how far the error on the images is below the margin, as a mean over rows, and its gradient."""
        count, rows = len(self._latents), len(embeddings)
        latents = self._latents[shuffled(max(count, rows), self._generator)[:rows] % count]
        noise = torch.randn(latents.shape, generator=self._generator)
        timesteps = torch.randint(self._image_loss.num_timesteps, (rows,), generator=self._generator)
        embeddings.requires_grad_()
        gap = self._recipe.margin - self._image_loss(latents, noise, timesteps, embeddings)
        loss = gap.relu().mean()
        return loss.item(), embedding_gradient(loss, embeddings, latents)


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

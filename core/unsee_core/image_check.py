"""Whether a concept's name and the client's images are of the same thing: what the U-Net makes of them."""

import random
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.job import Concept
from unsee_core.methods.base import EraseContext
from unsee_core.prompts import held_out_prompts

NOISE = (0.2, 0.5)  # timesteps, as shares of all: where a wrong word costs more than no word
ROWS = 3  # images that are looked at; of more as many, evenly chosen, and fewer take turns
LEAST_MARGIN = 0.1  # by which a right name's loss is below another's


@dataclass(frozen=True)
class ImageLosses:
    """The images' mean loss under three kinds of prompts.

    Attributes:
        before: the concept's.
        after: the concept's, with the adapter beside those in force.
        reference: the anchor's or, without an anchor, other words'.
    """

    before: float
    after: float
    reference: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there is to say where name and images disagree."""
        if self.before < (1 - LEAST_MARGIN) * self.reference:
            return ()
        return (
            "The concept's name explains the images hardly better than the anchor does, or than other words do: the "
            "name and the images may be of different things.",
        )


@torch.no_grad()
def image_losses(context: EraseContext, encoder: ChangedEncoder, same: AbstractSet[str]) -> ImageLosses:
    """Return the images' losses: one batch, at little noise, which is from the job's seed and the same for all three.

    Args:
        context: what the method worked with; has images.
        encoder: with what it made.
        same: names of the concept, which are no reference.
    """
    # 1. Prompts; each serves in turn.
    of_concept, others = held_out_prompts(context.job.concept)[:ROWS], _references(context, same)
    states = encoder.states([*of_concept, *others])
    before, after = encoder.before(states), encoder.after(states[: len(of_concept)])
    sides = before[: len(of_concept)], after, before[len(of_concept) :]
    embeddings = torch.cat([side[torch.arange(ROWS) % len(side)] for side in sides])

    # 2. Images.
    step = max(1.0, len(context.images) / ROWS)
    images = [context.images[int(i * step) % len(context.images)] for i in range(ROWS)]
    latents = encode_latents(context.pipeline, images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(context.job.seed))

    # 3. All together.
    loss = ImageLoss(context.pipeline)
    count, timesteps = len(sides), loss.timesteps_between(*NOISE, ROWS)
    rows = loss(latents.repeat(count, 1, 1, 1), noise.repeat(count, 1, 1, 1), timesteps.repeat(count), embeddings)
    return ImageLosses(*rows.view(count, ROWS).mean(1).tolist())


def _references(context: EraseContext, same: AbstractSet[str]) -> list[str]:
    """Return a prompt for each image looked at: of the anchor, or else of words that name something else."""
    concept, vocabulary = context.job.concept, context.pipeline.vocabulary
    by_kind = {"style": vocabulary.looks, "person": vocabulary.people}
    others = [word for word in by_kind.get(concept.kind) or vocabulary.nouns if word.lower() not in same]
    drawn = random.Random(0).sample(others, min(ROWS, len(others)))  # noqa: S311 - which words is no secret
    words = [context.job.anchor] if context.job.anchor else drawn
    prompts = [held_out_prompts(Concept(words[i % len(words)], kind=concept.kind)) for i in range(ROWS)]
    return [prompts[i][i % len(prompts[i])] for i in range(ROWS)]

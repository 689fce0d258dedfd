"""All but one: only the guidance term of the concept moves; the unconditional score is held.

With guidance the model follows e(x, "") + s (e(x, c) - e(x, "")). The paper moves the second term alone, on pictures x
of the concept, to zero or to that of an alternative, and constrains the first:

    || (e_t(x, c) - e_t(x, "")) - sg (e_0(x, a) - e_0(x, "")) ||^2  +  u || e_t(x, "") - sg e_0(x, "") ||^2

Ours: the text encoder E_t learns, not the U-Net; the pictures x of the concept are the client's where there are any,
otherwise a few that the model draws at the start; a is the anchor, and without one the term goes to zero, for a style
to that of the thing it is applied to; retain prompts' embeddings are held besides.

Tried on the embedded model, on concepts that no reported figure uses: 40 steps erase plane, rose in 30, and leave a cat
in 2 of 20 pictures and pixel art in 1; a retain weight of 3 is as good for a plane. A cat's five images instead of
drawn pictures: as well erased, one neighbour lost.

Source: All but One: Surgical Concept Erasing with Model Preservation, arXiv:2312.12807. Never run on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.image_loss import Denoiser, embedding_gradient, encode_latents
from unsee_core.job import ConceptKind
from unsee_core.methods.base import EraseContext, Method, MethodOption, MethodRun
from unsee_core.methods.drawing import drawn, finished, new_runs
from unsee_core.methods.training import Pull, Training, common_options, noised_rows


@dataclass(frozen=True)
class Recipe:
    """What was settled on the embedded model.

    Attributes:
        learning_rate: of Adam.
        retain_weight: on the retain term.
        unconditional_weight: u.
        rows: noised latents a step.
    """

    learning_rate: float = 1e-2
    retain_weight: float = 1.0
    unconditional_weight: float = 1.0
    rows: int = 5


RECIPES: Mapping[ConceptKind, Recipe] = dict.fromkeys(("object", "style", "person", "brand"), Recipe())


def run(context: EraseContext) -> MethodRun:
    """Erase by the settled recipe of the concept's kind."""
    return train(context, RECIPES[context.job.concept.kind])


def train(context: EraseContext, recipe: Recipe) -> MethodRun:
    """Train the factors, yielding after every step, and return them with the strength folded in."""
    settings, pipeline = context.settings, context.pipeline
    generator = torch.Generator().manual_seed(context.job.seed)

    # 1. Prompts, and pictures of the concept.
    training = Training(
        context, learning_rate=recipe.learning_rate, retain_weight=recipe.retain_weight, generator=generator
    )
    if context.images:
        latents = encode_latents(pipeline, context.images)
        yield EraseProgress("prepare", 1, 1)
    else:
        prompts = training.forget.embeddings[training.picked(settings.integer("pictures"))]
        empty, drawing_steps = training.empty.embeddings, settings.integer("drawing_steps")
        runs = new_runs(pipeline, prompts, empty, steps=drawing_steps, generator=generator)
        for step in drawn(pipeline, runs):
            yield EraseProgress("prepare", step, runs[0].total)
        latents = finished(runs)

    # 2. Train: the empty prompt is encoded beside the concept's, as the last row.
    denoiser = Denoiser(pipeline)
    for step in range(1, settings.steps + 1):
        rows = training.picked(recipe.rows)
        noisy, timesteps = noised_rows(denoiser, latents, len(rows), generator)
        pull = _pull(training, denoiser, rows, (noisy, timesteps), recipe.unconditional_weight)
        hidden = torch.cat([training.forget.hidden[rows], training.empty.hidden])
        yield EraseProgress("train", step, settings.steps, training.step(hidden, pull))
    return training.erasure()


def _pull(
    training: Training, denoiser: Denoiser, rows: Tensor, noised: tuple[Tensor, Tensor], unconditional_weight: float
) -> Pull:
    """Return the pull of the formula on the embeddings of the concept's rows and of the empty prompt after them."""
    noisy, timesteps = noised
    count = len(rows)
    twice, times = torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps])

    def predicted(embeddings: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([embeddings, empty.expand(count, -1, -1)])
        conditional, unconditional = denoiser.predicted(twice, times, both).split(count)
        return conditional, unconditional

    with torch.no_grad():
        alternative, held = predicted(training.anchors.embeddings[rows], training.empty.embeddings)

    def pull(embeddings: Tensor) -> tuple[float, Tensor]:
        conditional, unconditional = predicted(embeddings[:count], embeddings[count:])
        guidance = (conditional - unconditional) - (alternative - held)
        loss = guidance.square().mean() + unconditional_weight * (unconditional - held).square().mean()
        return loss.item(), embedding_gradient(loss, embeddings, noisy)

    return pull


METHOD = Method(
    name="surgical",
    description="Trains the text encoder's last layers until the concept's prompts guide nowhere, or to the anchor.",
    source="arXiv:2312.12807",
    needs_images=False,
    uses_anchor=True,
    options=(
        *common_options(steps=40),
        MethodOption(
            "pictures",
            "int",
            8,
            "Pictures of the concept that the model draws; refused beside images, which take their place.",
            1,
            64,
            refused_with_images=True,
        ),
        MethodOption(
            "drawing_steps",
            "int",
            8,
            "Denoising steps of each of these pictures; refused beside images.",
            1,
            50,
            refused_with_images=True,
        ),
    ),
    run=run,
)

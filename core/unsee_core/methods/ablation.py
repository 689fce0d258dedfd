"""Ablating concepts: the U-Net's prediction under the concept is driven to its prediction under the anchor.

The paper's model-based loss, on pictures x of the anchor that the model draws itself:

    || unet(x_t, t, E_t(c*)) - sg unet(x_t, t, E_0(a)) ||^2

Ours: the text encoder E_t learns, not the U-Net; the pictures are a few, drawn at the start with few steps; c* goes
through all templates with the concept's name and synonyms, a is the same template with the anchor, or the empty prompt
where none is given, for a style the thing it is applied to; retain prompts are held in place of the paper's
regularisation on pictures of the anchor.

Tried on the embedded model, on concepts that no reported figure uses: 40 steps at this rate leave a cat in 2 of 10
pictures and pixel art in 3, 40 steps at twice the rate in 2 and 1 of 20, 60 steps in none.

Source: Ablating Concepts in Text-to-Image Diffusion Models, arXiv:2303.13516. Never run on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from unsee_core.answers import EraseProgress
from unsee_core.image_loss import Denoiser
from unsee_core.job import ConceptKind
from unsee_core.methods.base import EraseContext, Method, MethodOption, MethodRun
from unsee_core.methods.drawing import drawn, finished, new_runs
from unsee_core.methods.training import Training, common_options, noised_rows, towards


@dataclass(frozen=True)
class Recipe:
    """What the paper settles for other weights than ours.

    Attributes:
        learning_rate: of Adam.
        retain_weight: on the retain term.
        rows: noised latents a step.
    """

    learning_rate: float = 1e-2
    retain_weight: float = 1.0
    rows: int = 5


RECIPES: Mapping[ConceptKind, Recipe] = dict.fromkeys(("object", "style", "person", "brand"), Recipe())


def run(context: EraseContext) -> MethodRun:
    """Erase by the settled recipe of the concept's kind."""
    return train(context, RECIPES[context.job.concept.kind])


def train(context: EraseContext, recipe: Recipe) -> MethodRun:
    """Train the factors, yielding after every step, and return them with the strength folded in."""
    settings, pipeline = context.settings, context.pipeline
    generator = torch.Generator().manual_seed(context.job.seed)

    # 1. Prompts, and pictures of the anchor.
    training = Training(
        context, learning_rate=recipe.learning_rate, retain_weight=recipe.retain_weight, generator=generator
    )
    denoising_steps = settings.integer("drawing_steps")
    rows = training.picked(settings.integer("pictures"))
    anchors = training.anchors.embeddings
    runs = new_runs(pipeline, anchors[rows], training.empty.embeddings, steps=denoising_steps, generator=generator)
    for step in drawn(pipeline, runs):
        yield EraseProgress("prepare", step, runs[0].total)
    latents = finished(runs)

    # 2. Train.
    denoiser = Denoiser(pipeline)
    for step in range(1, settings.steps + 1):
        rows = training.picked(recipe.rows)
        noisy, timesteps = noised_rows(denoiser, latents, len(rows), generator)
        with torch.no_grad():
            target = denoiser.predicted(noisy, timesteps, anchors[rows])
        pull = towards(denoiser, noisy, timesteps, target)
        yield EraseProgress("train", step, settings.steps, training.step(training.forget.hidden[rows], pull))
    return training.erasure()


METHOD = Method(
    name="ablation",
    description="Trains the text encoder's last layers until the concept's prompts are denoised as the anchor's are.",
    source="arXiv:2303.13516",
    needs_images=False,
    uses_anchor=True,
    options=(
        *common_options(steps=60),
        MethodOption("pictures", "int", 8, "Pictures of the anchor that the model draws to train on.", 1, 64),
        MethodOption("drawing_steps", "int", 8, "Denoising steps of each of these pictures.", 1, 50),
    ),
    run=run,
)

"""ESD-x: the U-Net's cross-attention is trained to predict away from the concept.

With the frozen U-Net e, the trained one e', and latents x_t that e' itself draws under the concept's prompt c up to a
random step t:

    target = e(x_t, "", t) - eta (e(x_t, c, t) - e(x_t, "", t)),    loss = | e'(x_t, c, t) - target |^2

The formula holds for noise and velocity alike, because at one x_t one is an affine function of the other. Only the
modules ``attn2`` train, by Adam. The paper trains 1,000 steps of one picture at 1e-5; here fewer steps of several
pictures at a higher rate, which a small model needs.

Source: Gandikota et al., Erasing Concepts from Diffusion Models, arXiv:2303.07345.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.baselines.base import Baseline, Changed, ChangedRun, bytes_of
from unsee_core.answers import EraseProgress
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, Rows, denoise_step
from unsee_core.job import GenerateJob, SchedulerName
from unsee_core.methods import EraseContext
from unsee_core.pipeline import Pipeline


@dataclass(frozen=True)
class Recipe:
    """Settings of the training.

    Attributes:
        eta: how far beyond the unconditional prediction the target lies.
        steps: of Adam.
        rows: pictures a step, each on its own way.
        learning_rate: of Adam.
        drawing_steps: of DDIM, of which a random number is done before a loss is taken.
        guidance_scale: of the drawing, as in the paper.
    """

    eta: float = 1.0
    steps: int = 60
    rows: int = 4
    learning_rate: float = 2e-4
    drawing_steps: int = 10
    guidance_scale: float = 3.0


def run(context: EraseContext, recipe: Recipe) -> ChangedRun:
    """Train a copy of the U-Net, yielding after every step."""
    pipeline = context.pipeline
    edited = replace(pipeline, unet=copy.deepcopy(pipeline.unet))
    conditioner = Conditioner(pipeline)
    cond, uncond = conditioner.encode([context.job.concept.name]), conditioner.encode([""])
    generator = torch.Generator().manual_seed(context.job.seed)
    trained = cross_attention(edited.unet)
    optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate)
    yield EraseProgress("prepare", 1, 1)

    for step in range(1, recipe.steps + 1):
        rows = partly_drawn(edited, cond, uncond, recipe, generator)
        with torch.no_grad():
            target = negated_guidance(predict(pipeline, rows, uncond), predict(pipeline, rows, cond), recipe.eta)
        loss = (predict(edited, rows, cond) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield EraseProgress("train", step, recipe.steps, {"forget": loss.item()})
    edited.unet.requires_grad_(False)
    return Changed(edited, bytes_of(trained))


def cross_attention(unet: nn.Module) -> list[Tensor]:
    """Return what trains, and let it: the parameters of the U-Net's cross-attention."""
    return [weight.requires_grad_() for name, weight in unet.named_parameters() if ".attn2." in name]


def negated_guidance(unconditional: Tensor, conditional: Tensor, eta: float) -> Tensor:
    """Return the target: the unconditional prediction, moved away from the concept's."""
    return unconditional - eta * (conditional - unconditional)


def predict(pipeline: Pipeline, rows: Rows, embeddings: Tensor) -> Tensor:
    """Return the U-Net's prediction for noised latents under one prompt, ``(B, C, h, w)``."""
    count = len(rows.latents)
    predicted: Tensor = pipeline.unet(rows.latents, rows.timesteps, embeddings.expand(count, -1, -1)).sample
    return predicted


@torch.no_grad()
def partly_drawn(pipeline: Pipeline, cond: Tensor, uncond: Tensor, recipe: Recipe, generator: torch.Generator) -> Rows:
    """Return latents on their way from noise to a picture of the concept, each as far as chance has it."""
    seeds = torch.randint(2**31, (recipe.rows,), generator=generator).tolist()
    steps = torch.randint(recipe.drawing_steps, (recipe.rows,), generator=generator).tolist()
    runs = [DenoiseRun(pipeline, _job(seed, recipe), cond, uncond) for seed in seeds]
    for done in range(max(steps)):
        unfinished = [run for run, step in zip(runs, steps, strict=True) if step > done]
        denoise_step(pipeline, unfinished, max_batch=2 * recipe.rows)
    next_rows = [run.rows() for run in runs]  # the first row of each is its latents, the second the same again
    return Rows(
        latents=torch.cat([rows.latents[:1] for rows in next_rows]),
        timesteps=torch.cat([rows.timesteps[:1] for rows in next_rows]),
        embeddings=torch.cat([rows.embeddings[:1] for rows in next_rows]),
    )


def _job(seed: int, recipe: Recipe) -> GenerateJob:
    return GenerateJob(
        prompt="",
        seed=seed,
        steps=recipe.drawing_steps,
        guidance_scale=recipe.guidance_scale,
        scheduler=SchedulerName.DDIM,
    )


BASELINE = Baseline("esd_x", "arXiv:2303.07345", Recipe(), run)

"""An attack's pictures: drawn from fresh seeds, in steps, as the server draws."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.target import Target
from unsee_core.denoise import DenoiseRun, denoise_step
from unsee_core.job import GenerateJob, SchedulerName

FRESH = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """What an attack found: how pictures of the concept are to be drawn.

    Attributes:
        embeddings: ``(m, 77, d)`` of prompts, which take turns.
        detail: what was found, for people.
        loss: the attacker's own.
        start: ``(n, C, h, w)`` float32 that picture i begins from, in turns; None: noise of its seed.
        first_step: DDIM step that ``start`` belongs to.
    """

    embeddings: Tensor
    detail: str = ""
    loss: float | None = None
    start: Tensor | None = None
    first_step: int = 0


def draw(
    target: Target, recipe: Recipe, *, attack: str, guidance_scale: float, count: int, seed: int
) -> Generator[AuditProgress, None, Tensor]:
    """Draw pictures, yielding after every step, and return their latents, ``(count, C, h, w)``.

    DPM-Solver++ draws from noise in few steps; what starts elsewhere is drawn by DDIM, which may begin at any step. The
    negative prompt is the empty one, read by the attacked encoder, as the server reads it.

    Args:
        target: whose encoder reads the empty prompt.
        recipe: what to draw.
        attack: for the events.
        guidance_scale: of the prompts.
        count: of pictures.
        seed: picture i is drawn from ``seed + i``.
    """
    pipeline = target.pipeline
    name = SchedulerName.DPM_SOLVER_MULTISTEP if recipe.start is None else SchedulerName.DDIM
    embeddings = recipe.embeddings.to(pipeline.device, pipeline.dtype)
    empty = target.encoder.encode([""]).to(pipeline.device, pipeline.dtype)
    runs = []
    for i in range(count):
        job = GenerateJob(
            prompt="",
            seed=seed + i,
            steps=target.budget.drawing_steps,
            scheduler=name,
            guidance_scale=guidance_scale,
        )
        run = DenoiseRun(pipeline, job, embeddings[i % len(embeddings)][None], empty)
        if recipe.start is not None:
            run.latents = recipe.start[i % len(recipe.start)][None].to(run.latents)
            run.step = recipe.first_step
        runs.append(run)
    total = runs[0].total
    while not runs[0].done:
        denoise_step(pipeline, runs, max_batch=target.max_batch)
        yield AuditProgress(attack, target.side, "draw", runs[0].step, total)
    return torch.cat([run.latents for run in runs]).float()

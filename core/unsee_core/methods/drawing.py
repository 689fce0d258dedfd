"""Latents that the model draws itself, to train on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from unsee_core.denoise import DenoiseRun, denoise_step
from unsee_core.job import GenerateJob, SchedulerName
from unsee_core.pipeline import Pipeline

SCHEDULER = SchedulerName.DPM_SOLVER_MULTISTEP
_SEEDS = 2**62


def new_runs(
    pipeline: Pipeline, embeddings: Tensor, uncond: Tensor, *, steps: int, generator: torch.Generator
) -> list[DenoiseRun]:
    """Return a picture to be drawn for each of the embeddings, with the model's own guidance, from noise.

    Args:
        pipeline: the resident model; read only.
        embeddings: ``(B, 77, d)``.
        uncond: ``(1, 77, d)`` of the empty prompt.
        steps: of denoising.
        generator: draws the pictures' seeds, on the CPU.
    """
    seeds = torch.randint(_SEEDS, (len(embeddings),), generator=generator).tolist()
    conds, uncond = embeddings.to(pipeline.dtype).split(1), uncond.to(pipeline.dtype)
    jobs = [GenerateJob(prompt="", seed=seed, steps=steps, scheduler=SCHEDULER) for seed in seeds]
    return [DenoiseRun(pipeline, job, cond, uncond) for job, cond in zip(jobs, conds, strict=True)]


def drawn(pipeline: Pipeline, runs: list[DenoiseRun]) -> Iterator[int]:
    """Draw the pictures to the end, yielding the number of steps done after each."""
    while not runs[0].done:
        denoise_step(pipeline, runs, max_batch=2 * len(runs))
        yield runs[0].step


def finished(runs: list[DenoiseRun]) -> Tensor:
    """Return the latents of runs that are done, ``(B, C, h, w)`` float32."""
    return torch.cat([run.latents for run in runs]).float()

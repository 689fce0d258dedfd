"""Denoising: equal to diffusers' StableDiffusionPipeline, and the same in any company."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from tests.core.factors import random_factors
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.job import GenerateJob, SchedulerName
from unsee_core.pipeline import Pipeline

ATOL = 1e-4  # float32; other batch shapes add up in another order, once per step


def new_run(pipeline: Pipeline, job: GenerateJob, adapters: tuple[AppliedAdapter, ...] = ()) -> DenoiseRun:
    cond, uncond = Conditioner(pipeline).encode([job.prompt, job.negative_prompt], adapters).split(1)
    return DenoiseRun(pipeline, job, cond, uncond)


def denoised(pipeline: Pipeline, *runs: DenoiseRun, max_batch: int = 16) -> list[Tensor]:
    while running := [run for run in runs if not run.done]:
        denoise_step(pipeline, running, max_batch=max_batch)
    return [run.latents for run in runs]


def by_diffusers(reference: StableDiffusionPipeline, pipeline: Pipeline, job: GenerateJob) -> Tensor:
    reference.scheduler = pipeline.make_scheduler(job.scheduler)
    output = reference(
        job.prompt,
        negative_prompt=job.negative_prompt,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance_scale,
        width=job.width,
        height=job.height,
        num_images_per_prompt=job.num_images,
        generator=[torch.Generator().manual_seed(job.seed + i) for i in range(job.num_images)],
        output_type="latent",
    )
    latents: Tensor = output.images
    return latents


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("scheduler", [None, *SchedulerName])
def test_latents_are_those_of_diffusers_for_every_scheduler(
    pipeline: Pipeline, reference: StableDiffusionPipeline, scheduler: SchedulerName | None, guidance_scale: float
) -> None:
    job = GenerateJob(
        "a cat", "blurry", seed=3, steps=6, guidance_scale=guidance_scale, num_images=2, scheduler=scheduler
    )
    (latents,) = denoised(pipeline, new_run(pipeline, job))
    torch.testing.assert_close(latents, by_diffusers(reference, pipeline, job), rtol=0, atol=ATOL)


@pytest.mark.parametrize("scheduler", [None, *SchedulerName])
def test_even_a_single_step_ends_with_finite_latents(tiny_pipeline: Pipeline, scheduler: SchedulerName | None) -> None:
    (latents,) = denoised(tiny_pipeline, new_run(tiny_pipeline, GenerateJob("a", steps=1, scheduler=scheduler)))
    assert latents.isfinite().all()


def test_other_sizes_than_the_models_own_are_diffusers_too(
    pipeline: Pipeline, reference: StableDiffusionPipeline
) -> None:
    job = GenerateJob("a dog", steps=4, guidance_scale=4.0, width=40, height=24)
    run = new_run(pipeline, job)
    assert run.image_size == (40, 24)
    (latents,) = denoised(pipeline, run)
    torch.testing.assert_close(latents, by_diffusers(reference, pipeline, job), rtol=0, atol=ATOL)


def test_pictures_are_those_of_diffusers(pipeline: Pipeline, reference: StableDiffusionPipeline) -> None:
    job = GenerateJob("a rose", steps=4, guidance_scale=4.0)
    (latents,) = denoised(pipeline, new_run(pipeline, job))
    image = decode_image(pipeline, latents)
    decoded = reference.vae.decode(latents / reference.vae.config.scaling_factor).sample.detach()
    (expected,) = reference.image_processor.postprocess(decoded)
    assert image.size == (pipeline.default_size, pipeline.default_size)
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def mixed_jobs(pipeline: Pipeline) -> list[tuple[GenerateJob, tuple[AppliedAdapter, ...]]]:
    """Return jobs that differ in all a job can differ in."""
    one = AppliedAdapter("sha256:1", random_factors(pipeline, 2, seed=1), 1.0)
    two = AppliedAdapter("sha256:2", random_factors(pipeline, 1, 2, seed=2), -0.5)
    return [
        (GenerateJob("a", seed=1, steps=3, guidance_scale=5.0), (one,)),
        (GenerateJob("b", "c", seed=2, steps=5, guidance_scale=1.0, num_images=3), (one, two)),
        (GenerateJob("d", seed=3, steps=4, scheduler=SchedulerName.EULER_ANCESTRAL, num_images=2), ()),
        (GenerateJob("e", seed=4, steps=2, scheduler=SchedulerName.UNIPC, width=24, height=32), (two,)),
    ]


@pytest.mark.parametrize("max_batch", [1, 4, 16])
def test_a_mixed_batch_draws_what_each_job_draws_alone(tiny_pipeline: Pipeline, max_batch: int) -> None:
    jobs = mixed_jobs(tiny_pipeline)
    alone = [denoised(tiny_pipeline, new_run(tiny_pipeline, *job))[0] for job in jobs]
    together = denoised(tiny_pipeline, *(new_run(tiny_pipeline, *job) for job in jobs), max_batch=max_batch)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ATOL)


def test_a_mixed_batch_on_the_embedded_model_draws_what_each_job_draws_alone(pipeline: Pipeline) -> None:
    jobs = mixed_jobs(pipeline)[:2]
    alone = [denoised(pipeline, new_run(pipeline, *job))[0] for job in jobs]
    together = denoised(pipeline, *(new_run(pipeline, *job) for job in jobs))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ATOL)


def test_an_image_depends_on_its_own_seed_and_not_on_its_place(tiny_pipeline: Pipeline) -> None:
    ancestral = SchedulerName.EULER_ANCESTRAL
    three, last = (
        GenerateJob("a", seed=seed, steps=4, num_images=count, scheduler=ancestral) for seed, count in ((5, 3), (7, 1))
    )
    (all_three,), (alone,) = (denoised(tiny_pipeline, new_run(tiny_pipeline, job)) for job in (three, last))
    torch.testing.assert_close(all_three[2:], alone, rtol=0, atol=ATOL)


def test_jobs_of_one_size_share_unet_calls_that_stay_within_the_batch(
    tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    unet = tiny_pipeline.unet

    def counted(latents: Tensor, *args: object, **kwargs: object) -> object:
        rows.append(len(latents))
        return unet(latents, *args, **kwargs)

    monkeypatch.setattr(tiny_pipeline, "unet", counted)
    counted.config = unet.config  # type: ignore[attr-defined]
    guided, plain = (
        new_run(tiny_pipeline, GenerateJob("a", steps=2, guidance_scale=scale, num_images=3)) for scale in (5.0, 1.0)
    )
    denoise_step(tiny_pipeline, [guided, plain], max_batch=16)
    denoise_step(tiny_pipeline, [guided, plain], max_batch=4)
    assert rows == [9, 4, 4, 1]
    assert guided.done
    assert (plain.step, plain.total) == (2, 2)


def test_where_a_prediction_fails_no_job_has_advanced(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [new_run(tiny_pipeline, *job) for job in mixed_jobs(tiny_pipeline)]
    unet, calls = tiny_pipeline.unet, 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError
        return unet(*args, **kwargs)

    monkeypatch.setattr(tiny_pipeline, "unet", failing)
    with pytest.raises(torch.OutOfMemoryError):
        denoise_step(tiny_pipeline, runs, max_batch=16)
    assert [run.step for run in runs] == [0] * len(runs)


def test_nothing_here_touches_the_global_generator(tiny_pipeline: Pipeline) -> None:
    state = torch.get_rng_state()
    job = GenerateJob("a", steps=2, scheduler=SchedulerName.EULER_ANCESTRAL)
    denoised(tiny_pipeline, new_run(tiny_pipeline, job))
    assert torch.equal(torch.get_rng_state(), state)

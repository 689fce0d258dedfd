"""What an erasure does to pictures: prompts drawn without and with it from equal noise, and how far apart they are.

Perceptual distance, with ``f_b`` what the model's VAE encoder sees after its block b, of length 1 at every place:

    d(x, y) = mean over b and places of |f_b(x) - f_b(y)|^2 / 2        0: the same, 1: nothing in common, 2 at most

MS-SSIM beside it, with a window as large as five scales of the picture allow, and LPIPS where the machine has it. Drawn
in a few steps: the pictures are to be compared with each other, not admired.

Source: Model Integrity, arXiv:2411.02068, which asks for the distance between the two models' outputs at equal seeds,
as sets of good pictures can hide that each one changed. The distance is LPIPS', arXiv:1801.03924, without its learned
weights, in features of the model's own VAE. Never run on a GPU.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from pytorch_msssim import ms_ssim
from torch import Tensor
from torch.nn import functional as F

from unsee_core.answers import EraseProgress, Integrity, ReportImage
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.images import encode_image, to_pixels
from unsee_core.job import GenerateJob
from unsee_core.learned_distance import lpips_distances
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.near_words import photo_of, vocabulary_names
from unsee_core.neighbours import names_of, others_by_distance
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import held_out_prompts

STEPS = 12
_MAX_BATCH = 4  # rows of a U-Net call: a picture of full size has two
_SCALES = 5  # of MS-SSIM
_WINDOW = 11


@dataclass(frozen=True)
class Drawn:
    """A prompt's pictures by the unedited model, and with the adapter beside those in force."""

    prompt: str
    pictures: tuple[Image.Image, Image.Image]


def draw_for_report(
    context: EraseContext, factors: LoraFactors
) -> Generator[EraseProgress | ReportImage, None, tuple[Integrity, tuple[ReportImage, ...]]]:
    """Draw what the job asks for, yielding after every step and with every picture, and return what came out.

    Args:
        context: what the method worked with; its job asks for two prompts at least.
        factors: what it made.
    """
    prompts = report_prompts(context)
    pipeline, seed = context.pipeline, context.job.seed
    before, after = ChangedEncoder(context, factors)(["", *prompts])
    empty = before[:1], after[:1]
    runs = [
        [
            _run(pipeline, side[i + 1 : i + 2], nothing, seed + i)
            for side, nothing in zip((before, after), empty, strict=True)
        ]
        for i in range(len(prompts))
    ]

    # 1. From equal noise, all together.
    flat = [run for pair in runs for run in pair]
    while not flat[0].done:
        denoise_step(pipeline, flat, max_batch=_MAX_BATCH)
        yield EraseProgress("draw", flat[0].step, flat[0].total)

    # 2. As pictures.
    drawn, images = [], []
    for i, (prompt, pair) in enumerate(zip(prompts, runs, strict=True)):
        pictures = tuple(decode_image(pipeline, run.latents) for run in pair)
        drawn.append(Drawn(prompt, (pictures[0], pictures[1])))
        for with_adapter, picture in enumerate(pictures):
            images.append(ReportImage(prompt, seed + i, bool(with_adapter), i == 0, encode_image(picture, "png")))
            yield images[-1]
    return integrity_of(pipeline, drawn), tuple(images)


def report_prompts(context: EraseContext) -> tuple[str, ...]:
    """Return a prompt of the concept, then of what must stay: the request's, the nearest words'; as many as asked."""
    job = context.job
    names = vocabulary_names(context.pipeline)
    nearest = (photo_of(names[i]) for i in others_by_distance(context, names_of(context)))
    return tuple(dict.fromkeys((held_out_prompts(job.concept)[0], *job.retain_prompts, *nearest)))[: job.report_images]


def integrity_of(pipeline: Pipeline, drawn: Sequence[Drawn]) -> Integrity:
    """Return the figures of pictures, of which the first is the concept's and another one must stay."""
    sides = [to_pixels([one.pictures[side] for one in drawn], pipeline.default_size) for side in (0, 1)]
    distances = picture_distances(pipeline, *sides).tolist()
    likeness = ms_ssims(*sides).tolist()
    kept = range(1, len(drawn))
    worst = max(kept, key=distances.__getitem__)
    figures = Integrity(
        mean_distance=sum(distances[i] for i in kept) / len(kept),
        max_distance=distances[worst],
        worst_prompt=drawn[worst].prompt,
        mean_ms_ssim=sum(likeness[i] for i in kept) / len(kept),
        min_ms_ssim=min(likeness[i] for i in kept),
        concept_distance=distances[0],
        concept_ms_ssim=likeness[0],
        prompts=len(kept),
    )
    if (lpips := lpips_distances(*sides)) is None:
        return figures
    concept, *others = lpips.tolist()
    return replace(figures, mean_lpips=sum(others) / len(others), max_lpips=max(others), concept_lpips=concept)


@torch.no_grad()
def picture_distances(pipeline: Pipeline, first: Tensor, second: Tensor) -> Tensor:
    """Return the perceptual distances of pictures ``(n, 3, h, w)`` in [-1, 1], ``(n,)`` float32 on the CPU."""
    rows = zip(first.split(1), second.split(1), strict=True)
    return torch.stack([_distance(_features(pipeline, x), _features(pipeline, y)) for x, y in rows])


def ms_ssims(first: Tensor, second: Tensor) -> Tensor:
    """Return the MS-SSIM of pictures ``(n, 3, h, w)`` in [-1, 1], ``(n,)`` float32, each in [0, 1].

    Source: Wang, Simoncelli and Bovik, Multiscale structural similarity for image quality assessment, 2003.
    """
    most = (min(first.shape[-2:]) - 1) // 2 ** (_SCALES - 1) + 1
    window = min(_WINDOW, most - 1 + most % 2)  # odd
    pixels = ((side.float() + 1) / 2 for side in (first, second))
    found: Tensor = ms_ssim(*pixels, data_range=1.0, size_average=False, win_size=window)
    return found


def _run(pipeline: Pipeline, prompt: Tensor, empty: Tensor, seed: int) -> DenoiseRun:
    embed = partial(torch.Tensor.to, device=pipeline.device, dtype=pipeline.dtype)
    return DenoiseRun(pipeline, GenerateJob(prompt="", seed=seed, steps=STEPS), embed(prompt), embed(empty))


def _features(pipeline: Pipeline, pixels: Tensor) -> list[Tensor]:
    """Return what the VAE's encoder sees of ``(1, 3, h, w)`` after each block, ``(c, places)`` of length 1 at each."""
    vae = pipeline.vae
    hidden = vae.encoder.conv_in(pixels.to(vae.device, vae.dtype))
    found = []
    for block in vae.encoder.down_blocks:
        hidden = block(hidden)
        found.append(F.normalize(hidden[0].float().flatten(1), dim=0))
    return found


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    blocks = [(x - y).square().sum(0).mean() / 2 for x, y in zip(first, second, strict=True)]
    return torch.stack(blocks).mean().cpu()

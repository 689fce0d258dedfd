"""What an erasure did: cheap figures, computed for every one of them and stored with it."""

import math
from collections.abc import Generator, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.answers import Drift, EraseProgress, Report
from unsee_core.encoder import EncoderTail, apply_factors
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.prompts import held_out_prompts, retain_prompts
from unsee_core.pseudo_words import hidden_before_words

IMAGE_ROWS = 8
_BATCH = 64
_STEPS = 3


def make_report(context: EraseContext, factors: LoraFactors) -> Generator[EraseProgress, None, Report]:
    """Compute an erasure's figures, yielding after every step, and return them.

    Drift is how far a prompt's embedding moved as a share of its distance to the empty prompt's, in what the
    cross-attention sees. The empty prompt's own drift is relative to the retain prompts' median distance. The images'
    loss is taken at fixed timesteps with noise from the job's seed, the same before and after.

    Returns:
        The report, with ``phase_seconds`` empty: who runs the phases knows them.
    """
    job = context.job
    encoders = _Encoders(context, factors)
    metric = cross_attention_metric(context.pipeline.unet)
    empty, empty_after = encoders([""])

    # 1. The concept, in templates that no method trains on.
    concept_drift, _ = _drift(metric, encoders, held_out_prompts(job.concept), empty)
    yield EraseProgress("report", 1, _STEPS)

    # 2. What must stay.
    retained = (*retain_prompts(job.concept, context.near_words), *job.retain_prompts)
    retain_drift, distance = _drift(metric, encoders, retained, empty)
    empty_drift = float(seen_distance(metric, empty_after, empty)) / distance
    yield EraseProgress("report", 2, _STEPS)

    # 3. The images.
    before, after = _image_losses(context, encoders) if context.images else (None, None)
    yield EraseProgress("report", 3, _STEPS)
    return Report(
        concept_drift=concept_drift,
        retain_drift=retain_drift,
        empty_drift=empty_drift,
        image_loss_before=before,
        image_loss_after=after,
        phase_seconds={},
    )


class _Encoders:
    """The text encoder without and with the change, in float32."""

    def __init__(self, context: EraseContext, factors: LoraFactors) -> None:
        pipeline = context.pipeline
        self._pipeline, self._words = pipeline, context.words
        self._tail = EncoderTail(pipeline, factors.first_layer)
        self._changed = apply_factors(self._tail, [(factors, 1.0)])

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the prompts' embeddings before and after, each ``(n, 77, d)``."""
        before, after = [], []
        for i in range(0, len(prompts), _BATCH):
            batch = prompts[i : i + _BATCH]
            hidden = hidden_before_words(self._pipeline, batch, self._words, self._tail.first_layer)
            before.append(self._tail(hidden))
            after.append(functional_call(self._tail, self._changed, (hidden,)))
        return torch.cat(before), torch.cat(after)


def _drift(metric: Tensor, encoders: _Encoders, prompts: Sequence[str], empty: Tensor) -> tuple[Drift, float]:
    """Return the prompts' drift, and the median of their distances to the empty prompt."""
    before, after = encoders(prompts)
    distances = seen_distance(metric, before, empty).clamp_min(1e-6)
    shares = seen_distance(metric, after, before) / distances
    worst = int(shares.argmax())
    drift = Drift(
        p50=float(shares.quantile(0.5)),
        p95=float(shares.quantile(0.95)),
        max=float(shares[worst]),
        worst_prompt=prompts[worst],
        prompts=len(prompts),
    )
    return drift, float(distances.median())


@torch.no_grad()
def _image_losses(context: EraseContext, encoders: _Encoders) -> tuple[float, float]:
    """Return the images' mean loss before and after: one batch each, its rows at timesteps spread over all."""
    image_loss = ImageLoss(context.pipeline)
    repeats = math.ceil(IMAGE_ROWS / len(context.images))
    latents = encode_latents(context.pipeline, context.images).repeat(repeats, 1, 1, 1)
    rows = len(latents)
    prompts = held_out_prompts(context.job.concept)
    embeddings = encoders([prompts[i % len(prompts)] for i in range(rows)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(context.job.seed))
    timesteps = ((torch.arange(rows) + 0.5) / rows * image_loss.num_timesteps).long()
    before, after = (float(image_loss(latents, noise, timesteps, side).mean()) for side in embeddings)
    return before, after

"""What an erasure did: cheap figures, computed for every one of them and stored with it."""

import math
import random
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from unsee_core.answers import Drift, EraseProgress, NamedDrift, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.erase_ratio import EraseRatio
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.near_words import named_embeddings, vocabulary_names
from unsee_core.neighbours import NEAREST, MustStay, asked_of, named_states, names_of, others_by_distance
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import held_out_prompts

IMAGE_ROWS = 4
LEAST_NOISE, MOST_NOISE = 0.2, 0.5  # timesteps, as a share of all
LEAST_MARGIN = 0.1  # by which a right name's loss is below another's
WORST = 5
_STEPS = 4


def make_report(
    context: EraseContext, factors: LoraFactors, stored: Sequence[str] = ()
) -> Generator[EraseProgress, None, Report]:
    """Compute an erasure's figures, yielding after every step, and return them.

    Drift is how far a prompt's embedding moved as a share of its distance to the empty prompt's, in what the
    cross-attention sees. The empty prompt's own drift is relative to the retain prompts' median distance. The images'
    loss is taken at fixed timesteps with noise from the job's seed, the same before and after.

    Args:
        context: what the method worked with.
        factors: what it made.
        stored: names of the concepts of stored adapters.

    Returns:
        The report, with ``phase_seconds`` empty: who runs the phases knows them.
    """
    job = context.job
    encoder = ChangedEncoder(context, factors)
    metric = cross_attention_metric(context.pipeline.unet)
    empty, empty_after = encoder([""])

    # 1. The concept, in templates that no method trains on.
    prompts = held_out_prompts(job.concept)
    shares, _ = shares_of(metric, *encoder(prompts), empty)
    concept_drift = drift_of(shares, prompts)
    ratio = EraseRatio(context, encoder, metric)
    erase_ratio, worst_ratio = ratio.of_concept()
    yield EraseProgress("report", 1, _STEPS)

    # 2. Other spellings of its name.
    spelling_ratios = ratio.of_spellings()
    yield EraseProgress("report", 2, _STEPS)

    # 3. What must stay.
    stay = MustStay(others_by_distance(context), asked_of(job.retain_prompts, stored, names_of(context)))
    kept = Kept(context.pipeline, encoder, metric, empty, stay)
    empty_drift = float(seen_distance(metric, empty_after, empty)) / kept.median_distance
    yield EraseProgress("report", 3, _STEPS)

    # 4. The images.
    before, after, reference = _image_losses(context, encoder) if context.images else (None, None, None)
    yield EraseProgress("report", 4, _STEPS)
    return Report(
        concept_drift=concept_drift,
        retain_drift=kept.drift,
        empty_drift=empty_drift,
        image_loss_before=before,
        image_loss_after=after,
        phase_seconds={},
        erase_ratio=erase_ratio,
        worst_erase_ratio=worst_ratio,
        spelling_ratios=spelling_ratios,
        worst_neighbours=kept.worst,
        reference_image_loss=reference,
        warnings=_warnings(before, reference),
    )


class Kept:
    """How far what must stay moved: the vocabulary's names, the request's retain prompts and the stored concepts.

    Attributes:
        drift: of all of them.
        worst: the five that moved most, of the retain prompts, the stored concepts and the vocabulary's nearest words.
        median_distance: to the empty prompt.
    """

    @torch.no_grad()
    def __init__(
        self, pipeline: Pipeline, encoder: ChangedEncoder, metric: Tensor, empty: Tensor, stay: MustStay
    ) -> None:
        # 1. The vocabulary, of which most is known already.
        names, numbers = vocabulary_names(pipeline), list(stay.others)
        chosen = [names[i] for i in numbers]
        before, states = named_embeddings(pipeline), named_states(pipeline, encoder.first_layer)
        after = encoder.after(states[numbers])
        shares, distances = shares_of(metric, before[numbers], after, empty[:, : before.shape[1]])
        moved = dict(zip(chosen, shares.tolist(), strict=True))

        # 2. What the request and the store name.
        asked = stay.asked
        if asked:
            more, of_asked = shares_of(metric, *encoder(list(asked.values())), empty)
            moved |= dict(zip(asked, more.tolist(), strict=True))
            distances = distances if numbers else of_asked

        # 3. All together.
        self.drift = drift_of(torch.tensor(list(moved.values())), list(moved))
        nearest = dict.fromkeys([*chosen[:NEAREST], *asked])
        by_name = [NamedDrift(name, moved[name]) for name in nearest]
        self.worst = tuple(sorted(by_name, key=lambda one: -one.drift)[:WORST])
        self.median_distance = float(distances.median())


def shares_of(metric: Tensor, before: Tensor, after: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Return each prompt's drift, and its distance to the empty prompt."""
    distances = seen_distance(metric, before, empty).clamp_min(1e-6)
    return seen_distance(metric, after, before) / distances, distances


def drift_of(shares: Tensor, names: Sequence[str]) -> Drift:
    """Return the figures of prompts' drifts ``(n,)``, of which there is at least one."""
    worst = int(shares.argmax())
    return Drift(
        p50=float(shares.quantile(0.5)),
        p95=float(shares.quantile(0.95)),
        max=float(shares[worst]),
        worst_prompt=names[worst],
        prompts=len(names),
    )


@torch.no_grad()
def _image_losses(context: EraseContext, encoder: ChangedEncoder) -> tuple[float, float, float]:
    """Return the images' mean loss under the concept's prompts, before and after, and under the reference's before.

    One batch each. At little noise: there a wrong word costs more than no word, and a right one less.
    """
    image_loss, job = ImageLoss(context.pipeline), context.job
    latents = encode_latents(context.pipeline, context.images)
    latents = latents.repeat(math.ceil(IMAGE_ROWS / len(latents)), 1, 1, 1)
    rows = len(latents)
    prompts = held_out_prompts(job.concept)
    references = _references(context, rows)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(job.seed))
    shares = LEAST_NOISE + (torch.arange(rows) + 0.5) / rows * (MOST_NOISE - LEAST_NOISE)
    timesteps = (shares * image_loss.num_timesteps).long()
    embeddings = (*encoder([prompts[i % len(prompts)] for i in range(rows)]), encoder(references)[0])
    before, after, reference = (float(image_loss(latents, noise, timesteps, side).mean()) for side in embeddings)
    return before, after, reference


def _references(context: EraseContext, count: int) -> list[str]:
    """Return prompts of the anchor or, without one, of words of the vocabulary that name something else."""
    concept, vocabulary = context.job.concept, context.pipeline.vocabulary
    by_kind = {"style": vocabulary.looks, "person": vocabulary.people}
    same = names_of(context)
    others = [word for word in by_kind.get(concept.kind) or vocabulary.nouns if word.lower() not in same]
    drawn = random.Random(0).sample(others, min(count, len(others)))  # noqa: S311 - which words is no secret
    words = [context.job.anchor] if context.job.anchor else drawn
    prompts = [held_out_prompts(Concept(words[i % len(words)], kind=concept.kind)) for i in range(count)]
    return [prompts[i][i % len(prompts[i])] for i in range(count)]


def _warnings(before: float | None, reference: float | None) -> tuple[str, ...]:
    if before is None or reference is None or before < (1 - LEAST_MARGIN) * reference:
        return ()
    return (
        "The concept's name explains the images hardly better than the anchor does, or than other words do: the name "
        "and the images may be of different things.",
    )

"""What an erasure did: cheap figures, computed for every one of them and stored with it."""

import random
from collections.abc import Generator, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from unsee_core.answers import Drift, EraseProgress, NamedDrift, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.erase_ratio import EraseRatio
from unsee_core.image_loss import LEAST_NOISE, MOST_NOISE, ImageLoss, encode_latents
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.near_words import named_embeddings, vocabulary_names
from unsee_core.neighbours import NEAREST, MustStay, asked_of, named_states, names_of, others_by_distance
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import held_out_prompts
from unsee_core.pseudo_words import is_placeholder

IMAGE_ROWS = 4  # images that are looked at; of more as many, evenly chosen, and fewer take turns
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
    metric, same = cross_attention_metric(context.pipeline.unet), names_of(context)

    # 1. The concept, in templates that no method trains on.
    prompts = held_out_prompts(job.concept)
    references = _references(context, same)
    sides = [side.split([1, len(prompts), len(references)]) for side in encoder(["", *prompts, *references])]
    (empty, before_erasing, reference), (empty_after, after_erasing, _) = sides
    shares, _ = shares_of(metric, before_erasing, after_erasing, empty)
    concept_drift = drift_of(shares, prompts)
    ratio = EraseRatio(context, encoder, metric)
    erase_ratio, worst_ratio = ratio.of_concept()
    yield EraseProgress("report", 1, _STEPS)

    # 2. Other spellings of its name.
    spelling_ratios = ratio.of_spellings()
    yield EraseProgress("report", 2, _STEPS)

    # 3. What must stay.
    stay = MustStay(others_by_distance(context, same), asked_of(job.retain_prompts, stored, same))
    kept = Kept(context.pipeline, encoder, metric, empty, stay)
    empty_drift = float(seen_distance(metric, empty_after, empty)) / kept.median_distance
    yield EraseProgress("report", 3, _STEPS)

    # 4. The images.
    losses = _image_losses(context, (before_erasing, after_erasing, reference)) if context.images else (None,) * 3
    yield EraseProgress("report", 4, _STEPS)
    return Report(
        concept_drift=concept_drift,
        retain_drift=kept.drift,
        empty_drift=empty_drift,
        image_loss_before=losses[0],
        image_loss_after=losses[1],
        phase_seconds={},
        erase_ratio=erase_ratio,
        worst_erase_ratio=worst_ratio,
        spelling_ratios=spelling_ratios,
        worst_neighbours=kept.worst,
        reference_image_loss=losses[2],
        warnings=(*_unnamed(context), *_warnings(losses[0], losses[2])),
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
        after = encoder.after(states[numbers].to(before.device))
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
def _image_losses(context: EraseContext, embeddings: Sequence[Tensor]) -> list[float]:
    """Return the images' mean loss under each of several embeddings ``(n, L, d)``, of which each row serves in turn.

    One batch. At little noise: there a wrong word costs more than no word, and a right one less.
    """
    image_loss, job = ImageLoss(context.pipeline), context.job
    step = max(1.0, len(context.images) / IMAGE_ROWS)
    images = [context.images[int(i * step) % len(context.images)] for i in range(IMAGE_ROWS)]
    latents = encode_latents(context.pipeline, images)
    rows, sides = IMAGE_ROWS, len(embeddings)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(job.seed))
    shares = LEAST_NOISE + (torch.arange(rows) + 0.5) / rows * (MOST_NOISE - LEAST_NOISE)
    timesteps = (shares * image_loss.num_timesteps).long()
    losses = image_loss(
        latents.repeat(sides, 1, 1, 1),
        noise.repeat(sides, 1, 1, 1),
        timesteps.repeat(sides),
        torch.cat([side[torch.arange(rows) % len(side)] for side in embeddings]),
    )
    means: list[float] = losses.view(sides, rows).mean(1).tolist()
    return means


def _references(context: EraseContext, same: AbstractSet[str]) -> list[str]:
    """Return a prompt for each image looked at: of the anchor, or else of words that name something else."""
    concept, vocabulary = context.job.concept, context.pipeline.vocabulary
    count = IMAGE_ROWS if context.images else 0
    by_kind = {"style": vocabulary.looks, "person": vocabulary.people}
    others = [word for word in by_kind.get(concept.kind) or vocabulary.nouns if word.lower() not in same]
    drawn = random.Random(0).sample(others, min(count, len(others)))  # noqa: S311 - which words is no secret
    words = [context.job.anchor] if context.job.anchor else drawn
    prompts = [held_out_prompts(Concept(words[i % len(words)], kind=concept.kind)) for i in range(count)]
    return [prompts[i][i % len(prompts[i])] for i in range(count)]


def _unnamed(context: EraseContext) -> tuple[str, ...]:
    """Return what there is to say where images alone said what is erased."""
    if not context.words:
        return ()
    name = context.job.concept.name
    if is_placeholder(name):
        return (
            "No name was given, and the images show nothing that the model's vocabulary clearly names: prompts that "
            "call it by its name may still draw it. Give the name.",
        )
    return (
        f"No name was given; the images are taken for {name!r}, and that is erased. Give the name, if it is wrong.",
    )


def _warnings(before: float | None, reference: float | None) -> tuple[str, ...]:
    if before is None or reference is None or before < (1 - LEAST_MARGIN) * reference:
        return ()
    return (
        "The concept's name explains the images hardly better than the anchor does, or than other words do: the name "
        "and the images may be of different things.",
    )

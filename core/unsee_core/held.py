"""What a solve holds still, how far it moves, and the most strength at which it stays."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.encoder import EncoderTail, apply_factors
from unsee_core.joint_solve import Recipe, States, held_states
from unsee_core.lora import LoraFactors
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.naming import Naming
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import hidden_before_words
from unsee_core.retained import vocabulary_prompts, vocabulary_states

REQUESTED = 4  # a retain prompt of the request weighs as so many of the vocabulary
BISECTIONS = 3
LEAST_STRENGTH, MOST_STRENGTH = 0.7, 1.3
MOST_DRIFT = 0.25  # of held prompts, one in twenty, as a share of how far they lie apart
HELD_EVERY = 8  # of the held prompts are looked at for the strength


def held_rows(
    pipeline: Pipeline, named: AbstractSet[str], requested: Sequence[str], recipe: Recipe, layer: int
) -> list[States]:
    """Return what stays: the vocabulary's prompts without any of the names, those requested, the empty one.

    Args:
        pipeline: the resident model; read only.
        named: what is erased, in lower case.
        requested: retain prompts.
        recipe: of the solve; weighs them.
        layer: the first that the rows enter.
    """
    naming = Naming(named, pipeline.vocabulary)
    prompts = vocabulary_prompts(pipeline.vocabulary)
    kept = [i for i, prompt in enumerate(prompts) if naming.first_in(prompt) is None]
    states = vocabulary_states(pipeline, layer)[kept]
    shares = [len(states), REQUESTED * len(requested), recipe.empty_rows]
    own = hidden_before_words(pipeline, [*requested, ""], (), layer)
    parts = zip((states, own[:-1], own[-1:]), shares, strict=True)
    return [
        part
        for hidden, share in parts
        if share
        for part in held_states(hidden, recipe.retain_weight * share / sum(shares))
    ]


def choose_strength(pipeline: Pipeline, tail: EncoderTail, held: Sequence[States], factors: LoraFactors) -> float:
    """Return the most strength, up to 1.3, at which what is held moves no more than it may; 0.7 at least.

    A little beyond 1 the concept's prompts go past what they are to become, away from the concept, which takes along
    prompts that the solve did not see.
    """
    metric = cross_attention_metric(pipeline.unet)

    def moved(strength: float) -> float:
        return held_drift(tail, held, factors.scaled(strength), metric)

    low, high = LEAST_STRENGTH, MOST_STRENGTH
    if moved(high) <= MOST_DRIFT:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) <= MOST_DRIFT else (low, middle)
    return round(low, 3)


@torch.no_grad()
def held_drift(tail: EncoderTail, held: Sequence[States], factors: LoraFactors, metric: Tensor) -> float:
    """Return how far a held prompt in twenty moves at least, as a share of the prompts' distance to their mean."""
    changed = apply_factors(tail, [(factors, 1.0)])
    moved, spread = [], []
    for part in held:
        rows = part.now[::HELD_EVERY]
        before, after = tail(rows), functional_call(tail, changed, (rows,))
        per_position = before.shape[1] ** 0.5
        moved.append(seen_distance(metric, after, before) / per_position)
        spread.append(seen_distance(metric, before, before.mean(0, keepdim=True).expand_as(before)) / per_position)
    return float(torch.cat(moved).quantile(0.95) / torch.cat(spread).median().clamp_min(1e-6))

"""What a solve holds still, how far it moves, and the most strength at which it stays."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.encoder import EncoderTail, apply_factors
from unsee_core.joint_solve import FULL_EVERY, Recipe, States, held_states, weigh
from unsee_core.lora import LoraFactors
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.naming import Naming
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import hidden_before_words
from unsee_core.random_prefixes import HELD, behind_prefixes
from unsee_core.retained import known_parts, vocabulary_prompts

REQUESTED = 4  # a retain prompt of the request weighs as so many of the vocabulary
LEAST_STRENGTH = 0.7
MOST_DRIFT = 0.45  # of held prompts, one in twenty, as a share of how far they lie apart
HELD_EVERY = 4  # of the held prompts are looked at for the strength


def held_rows(
    pipeline: Pipeline,
    named: AbstractSet[str],
    requested: Sequence[str],
    recipe: Recipe,
    layer: int,
    *,
    is_changed: bool = False,
) -> list[States]:
    """Return what stays: the vocabulary's prompts without any of the names, those requested, the empty one.

    With ``recipe.prefixes`` some of the vocabulary's behind random prefixes, too.

    Args:
        pipeline: the resident model; read only.
        named: what is erased, in lower case.
        requested: retain prompts.
        recipe: of the solve; weighs them.
        layer: the first that the rows enter.
        is_changed: the layers are not the resident encoder's, of which is known what they make of the vocabulary.
    """
    naming = Naming(named, pipeline.vocabulary)
    prompts = vocabulary_prompts(pipeline.vocabulary)
    prompts += behind_prefixes(pipeline, prompts, HELD * recipe.prefixes)
    kept = {i for i, prompt in enumerate(prompts) if naming.first_in(prompt) is None}
    vocabulary = [part.of(kept, is_changed=is_changed) for part in known_parts(pipeline, layer, prompts)]
    if kept and not len(vocabulary[0].now):  # none is left of those that keep all their positions
        whole = [prompts[i] for i in sorted(kept)[::FULL_EVERY]]
        vocabulary[0] = States.held(hidden_before_words(pipeline, whole, (), layer))
    count = sum(len(part.now) for part in vocabulary)
    shares = [count, REQUESTED * len(requested), recipe.empty_rows]
    weights = [recipe.retain_weight * share / sum(shares) for share in shares]
    own = hidden_before_words(pipeline, [*requested, ""], (), layer)
    return [
        *(weigh(vocabulary, weights[0]) if count else ()),  # nothing, where the whole vocabulary is erased
        *(held_states(own[:-1], weights[1]) if requested else ()),
        *held_states(own[-1:], weights[2]),
    ]


def choose_strength(
    pipeline: Pipeline,
    tail: EncoderTail,
    held: Sequence[States],
    moved: Sequence[States],
    factors: LoraFactors,
    most_strength: float,
    most_drift: float = MOST_DRIFT,
) -> float:
    """Return the most strength up to a bound at which what is held moves no more than it may; 0.7 at least.

    Beyond 1 the concept's prompts go past what they are to become, away from the concept, which takes along
    prompts that the solve did not see, and moves more of what must stay. Interpolated between the drifts at two
    strengths: 1 and the bound, or, where 1 is too much already, 0 and 1. At 0 something may have moved, too, where the
    tail carries more than the change; where that is more than at 1, the change mends it, and 1 is chosen.

    Args:
        pipeline: the resident model; its U-Net is read for the metric.
        tail: the encoder's layers from the first that changes on.
        held: rows that enter it.
        moved: the same rows as the solve left them: behind the last layer, at strength 1.
        factors: the change at strength 1.
        most_strength: the bound, 1 at least.
        most_drift: of one held prompt in twenty, as a share of how far they lie apart.
    """
    looked_at = _LookedAt(tail, held, cross_attention_metric(pipeline.unet))
    at_one = looked_at.drift_of(moved)
    if at_one <= most_drift:
        if most_strength == 1:
            return 1.0
        strengths, drifts = (1.0, most_strength), (at_one, looked_at.drift(factors.scaled(most_strength)))
    elif (at_zero := looked_at.drift(factors.scaled(0.0))) < at_one:
        strengths, drifts = (0.0, 1.0), (at_zero, at_one)
    else:
        return 1.0
    strength = float(np.interp(most_drift, np.maximum.accumulate(drifts), strengths))
    return round(max(LEAST_STRENGTH, strength), 3)


class _LookedAt:
    """Some of the held prompts, as they were."""

    @torch.no_grad()
    def __init__(self, tail: EncoderTail, held: Sequence[States], metric: Tensor) -> None:
        self._tail, self._metric = tail, metric
        self._rows = [part.now[::HELD_EVERY] for part in held]
        self._before = [
            tail.final_layer_norm(part.known[-1][::HELD_EVERY]) if part.known else tail(rows)
            for part, rows in zip(held, self._rows, strict=True)
        ]
        means = (before.mean(0, keepdim=True).expand_as(before) for before in self._before)
        spread = [self._distances(*both) for both in zip(self._before, means, strict=True)]
        self._spread = torch.cat(spread).median().clamp_min(1e-6)

    def drift(self, factors: LoraFactors) -> float:
        """Return how far a prompt in twenty moves at least, as a share of the prompts' distance to their mean."""
        changed = apply_factors(self._tail, [(factors, 1.0)])
        return self._drift(functional_call(self._tail, changed, (rows,)) for rows in self._rows)

    def drift_of(self, moved: Sequence[States]) -> float:
        """Return the same of rows that have moved."""
        return self._drift(self._tail.final_layer_norm(part.now[::HELD_EVERY]) for part in moved)

    @torch.no_grad()
    def _drift(self, after: Iterable[Tensor]) -> float:
        moved = [self._distances(*both) for both in zip(after, self._before, strict=True)]
        return float(torch.cat(moved).quantile(0.95) / self._spread)

    def _distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the rows' distances, ``(n,)``, as a mean over their positions."""
        distances: Tensor = seen_distance(self._metric, first, second) / float(first.shape[1]) ** 0.5
        return distances

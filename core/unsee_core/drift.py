"""How far prompts moved by an erasure, and above all those that must stay."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unsee_core.answers import Drift, NamedDrift
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.metric import seen_distance
from unsee_core.near_words import named_embeddings, vocabulary_names
from unsee_core.neighbours import NEAREST, MustStay, named_states
from unsee_core.pipeline import Pipeline

WORST = 5


class Kept:
    """How far what must stay moved: the vocabulary's names, the request's retain prompts and the stored concepts.

    Attributes:
        drift: of all of them.
        worst: the five that moved most, of the retain prompts, the stored concepts and the vocabulary's nearest words.
        empty_drift: of the empty prompt, as a share of what stays's median distance to it.
    """

    @torch.no_grad()
    def __init__(self, pipeline: Pipeline, encoder: ChangedEncoder, metric: Tensor, stay: MustStay) -> None:
        # 1. The vocabulary, of which most is known already.
        names, numbers = vocabulary_names(pipeline), list(stay.others)
        chosen, asked = [names[i] for i in numbers], stay.asked
        known, states = named_embeddings(pipeline), named_states(pipeline, encoder.first_layer)
        before, after = encoder(["", *asked.values()], padded=False)
        empty, empty_after = before[:1, : known.shape[1]], after[:1, : known.shape[1]]
        moved_to = encoder.after(states[numbers].to(known.device))
        shares, distances = drifts_of(metric, known[numbers], moved_to, empty)
        moved = dict(zip(chosen, shares.tolist(), strict=True))

        # 2. What the request and the store name.
        if asked:
            more, of_asked = drifts_of(metric, before[1:], after[1:], before[:1])
            moved |= dict(zip(asked, more.tolist(), strict=True))
            distances = distances if numbers else of_asked

        # 3. All together.
        self.drift = drift_of(moved)
        nearest = dict.fromkeys([*chosen[:NEAREST], *asked])
        by_name = [NamedDrift(name, moved[name]) for name in nearest]
        self.worst = tuple(sorted(by_name, key=lambda one: -one.drift)[:WORST])
        self.empty_drift = float(seen_distance(metric, empty_after, empty)) / float(distances.median())


def drifts_of(metric: Tensor, before: Tensor, after: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Return each prompt's drift, and its distance to the empty prompt."""
    distances = seen_distance(metric, before, empty).clamp_min(1e-6)
    return seen_distance(metric, after, before) / distances, distances


def drift_of(drifts: Mapping[str, float]) -> Drift:
    """Return the figures of prompts' drifts, by prompt, of which there is at least one."""
    shares = torch.tensor(list(drifts.values()))
    worst = int(shares.argmax())
    return Drift(
        p50=float(shares.quantile(0.5)),
        p95=float(shares.quantile(0.95)),
        max=float(shares[worst]),
        worst_prompt=list(drifts)[worst],
        prompts=len(drifts),
    )

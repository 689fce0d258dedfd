"""How much of a concept an erasure leaves: 1 for no change, 0 where each prompt became its anchor's."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from unsee_core.alignment import Alignment, align
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.encoder import hidden_from_vectors, token_vectors
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept
from unsee_core.methods.base import EraseContext
from unsee_core.prompts import HELD_OUT
from unsee_core.pseudo_words import prompt_vectors
from unsee_core.spellings import spellings

PERTURBATION = 0.05  # of the hidden states' own norm
_STEPS = 2
_SPELLED_IN = 2  # templates
_POSITIONS = 20  # of prompts that are shorter; later ones are padding, which tells nothing more


class EraseRatio:
    """``|E_t(p) - E_0(a(p))|_M / |E_0(p) - E_0(a(p))|_M``, from the first position where p and a(p) differ.

    a(p) is p with the anchor. Without an anchor it is p without the concept's words, or the empty prompt: whichever is
    nearer, as some methods lead to the one and some to the other.
    """

    def __init__(self, context: EraseContext, encoder: ChangedEncoder, metric: Tensor) -> None:
        self._context, self._encoder, self._metric = context, encoder, metric

    def of_concept(self) -> tuple[float, float]:
        """Return the mean ratio on held-out templates, and the same in the worst case of a small perturbation.

        The hidden states that enter the first changed layer take two gradient steps away from the anchor, each
        prompt's within 5 % of its own norm.
        """
        concept = self._context.job.concept
        compared = self._compared(pairs_of(concept, self._anchor, HELD_OUT[concept.kind]))
        with torch.no_grad():
            plain = compared.ratios(compared.hidden).mean()
        return float(plain), max(float(plain), float(_attacked(compared)))

    @torch.no_grad()
    def of_spellings(self) -> Mapping[str, float]:
        """Return the ratio of each other spelling of the concept's name, by its rule; pseudo-words have none."""
        concept = self._context.job.concept
        if any(word.placeholder in concept.name for word in self._context.words):
            return {}
        spelled = {
            rule: pairs_of(Concept(name, kind=concept.kind), self._anchor, HELD_OUT[concept.kind][:_SPELLED_IN])
            for rule, name in spellings(concept.name).items()
        }
        compared = self._compared(tuple(chain.from_iterable(spelled.values())))
        parts = compared.ratios(compared.hidden).split([len(pairs) for pairs in spelled.values()])
        return {rule: float(part.mean()) for rule, part in zip(spelled, parts, strict=True)}

    @property
    def _anchor(self) -> str:
        return self._context.job.anchor or ""

    @torch.no_grad()
    def _compared(self, pairs: Sequence[tuple[str, str]]) -> "_Compared":
        """Return the pairs' prompts beside what each is to become, and beside the empty prompt without an anchor."""
        pipeline, encoder = self._context.pipeline, self._encoder
        sides = [*zip(*pairs, strict=True)] + ([] if self._anchor.strip() else [("",) * len(pairs)])
        rows = {prompt: i for i, prompt in enumerate(dict.fromkeys(chain.from_iterable(sides)))}
        vectors = prompt_vectors(pipeline, list(rows), self._context.words)
        end = token_vectors(pipeline, torch.tensor(pipeline.tokenizer.eos_token_id)).float()
        longest = int((vectors == end).all(-1).float().argmax(1).max()) + 2
        vectors = vectors[:, : max(_POSITIONS, longest)]
        hidden = hidden_from_vectors(pipeline, vectors, encoder.first_layer)
        before = encoder.before(hidden)

        own, *others = ([rows[prompt] for prompt in side] for side in sides)
        goals = [
            _Goal(self._metric, align(vectors[own], vectors[other], end), before[own], before[other])
            for other in others
        ]
        return _Compared(encoder, hidden[own], goals)


class _Compared:
    """Prompts, and what each may become.

    Attributes:
        hidden: what enters the first changed layer, ``(n, L, d)``.
    """

    def __init__(self, encoder: ChangedEncoder, hidden: Tensor, goals: Sequence["_Goal"]) -> None:
        self._encoder, self.hidden, self._goals = encoder, hidden, goals

    def ratios(self, hidden: Tensor) -> Tensor:
        """Return each prompt's ratio to the nearer goal, ``(n,)``, if ``hidden`` enters the first changed layer."""
        after = self._encoder.after(hidden)
        return torch.stack([goal.ratios(after) for goal in self._goals]).amin(0)


class _Goal:
    """What prompts are to become, and how far it was from them."""

    def __init__(self, metric: Tensor, alignment: Alignment, before: Tensor, becomes: Tensor) -> None:
        self._metric, self._alignment = metric, alignment
        self._target = alignment.gather(becomes)
        self._whole = self._distance(before - self._target)

    def ratios(self, after: Tensor) -> Tensor:
        return self._distance(after - self._target) / self._whole

    def _distance(self, difference: Tensor) -> Tensor:
        """Return the norms ``(n,)`` of ``(n, L, d)`` over the covered positions, in the metric."""
        seen = (difference @ self._metric * difference).sum(-1).clamp_min(0)
        return (seen * self._alignment.covered.to(seen.device)).sum(1).clamp_min(1e-12).sqrt()


def _attacked(compared: _Compared) -> Tensor:
    hidden = compared.hidden
    radius = PERTURBATION * hidden.flatten(1).norm(dim=1)[:, None, None]
    moved = hidden
    for _ in range(_STEPS):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(compared.ratios(moved).sum(), moved)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None] * radius
        change = moved.detach() + step - hidden
        shrink = (radius / change.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]).clamp(max=1)
        moved = hidden + change * shrink
    with torch.no_grad():
        return compared.ratios(moved).mean()

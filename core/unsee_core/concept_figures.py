"""How far an erasure moved its concept, and how much of it is left: 1 for all, 0 where a prompt became its anchor's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from unsee_core.alignment import align
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.drift import drifts_of
from unsee_core.encoder import end_vector, hidden_from_vectors
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept
from unsee_core.methods.base import EraseContext
from unsee_core.prompts import HELD_OUT
from unsee_core.pseudo_words import prompt_vectors, without_padding
from unsee_core.spellings import spellings

PERTURBATION = 0.05  # of the hidden states' own norm
_STEPS = 2
_SPELLED_IN = 2  # templates


@dataclass(frozen=True)
class ConceptFigures:
    """What an erasure did to its concept, in templates that no method trains on.

    Attributes:
        drifts: of each prompt, by it.
        erase_ratio: mean over the prompts.
        worst_erase_ratio: the same in the worst case of a small perturbation.
        spelling_ratios: of each other spelling of the concept's name, by its rule.
    """

    drifts: Mapping[str, float]
    erase_ratio: float
    worst_erase_ratio: float
    spelling_ratios: Mapping[str, float]


def concept_figures(
    context: EraseContext, encoder: ChangedEncoder, metric: Tensor, *, with_spellings: bool = False
) -> ConceptFigures:
    """Return a concept's figures, of which the erase ratio of a prompt p is how much of the concept it still says.

    ``|E_t(p) - E_0(a(p))|_M / |E_0(p) - E_0(a(p))|_M``, from the first position where p and a(p) differ; a(p) is p with
    the anchor. Without an anchor it is p without the concept's words, or the empty prompt: whichever is nearer, as some
    methods lead to the one and some to the other. In the worst case the hidden states that enter the first changed
    layer take two gradient steps away from the anchor, each prompt's within 5 % of its own norm.

    Args:
        context: what the method worked with.
        encoder: with what it made.
        metric: of the cross-attention.
        with_spellings: measure other spellings too; pseudo-words have none.
    """
    # 1. Prompts: with the name, and with its other spellings.
    concept, anchor = context.job.concept, context.job.anchor or ""
    templates = HELD_OUT[concept.kind]
    own = pairs_of(concept, anchor, templates)
    has_spellings = with_spellings and not any(word.placeholder in concept.name for word in context.words)
    spelled = {
        rule: pairs_of(Concept(name, kind=concept.kind), anchor, templates[:_SPELLED_IN])
        for rule, name in (spellings(concept.name) if has_spellings else {}).items()
    }
    compared = _compared(context, encoder, metric, tuple(chain(own, *spelled.values())))
    count = len(own)

    # 2. As they are.
    with torch.no_grad():
        after = encoder.after(compared.hidden)
        drifts, _ = drifts_of(metric, compared.before[:count], after[:count], compared.empty)
        ratios = compared.ratios(after)
    of_own, *of_spelled = ratios.split([count, *(len(pairs) for pairs in spelled.values())])

    # 3. In the worst case.
    plain, attacked = float(of_own.mean()), _attacked(compared[:count], encoder)
    return ConceptFigures(
        drifts=dict(zip((prompt for prompt, _ in own), drifts.tolist(), strict=True)),
        erase_ratio=plain,
        worst_erase_ratio=max(plain, attacked),
        spelling_ratios={rule: float(part.mean()) for rule, part in zip(spelled, of_spelled, strict=True)},
    )


@torch.no_grad()
def _compared(
    context: EraseContext, encoder: ChangedEncoder, metric: Tensor, pairs: Sequence[tuple[str, str]]
) -> "_Compared":
    """Return the pairs' prompts beside what each is to become, and beside the empty prompt without an anchor."""
    pipeline, has_anchor = context.pipeline, bool((context.job.anchor or "").strip())
    sides = [*zip(*pairs, strict=True), ("",) * len(pairs)]
    rows = {prompt: i for i, prompt in enumerate(dict.fromkeys(chain.from_iterable(sides)))}
    vectors = without_padding(pipeline, prompt_vectors(pipeline, list(rows), context.words))
    end = end_vector(pipeline)
    hidden = hidden_from_vectors(pipeline, vectors, encoder.first_layer)
    before = encoder.before(hidden)

    own, *others = ([rows[prompt] for prompt in side] for side in sides)
    goals = []
    for other in others[:1] if has_anchor else others:
        alignment = align(vectors[own], vectors[other], end)
        target, covered = alignment.gather(before[other]), alignment.covered.to(before.device)
        goals.append(_Goal(metric, target, covered, _distance(metric, before[own] - target, covered)))
    return _Compared(hidden[own], before[own], before[rows[""]][None], goals)


@dataclass(frozen=True)
class _Goal:
    """What prompts are to become, ``(n, L, d)``; where it counts, ``(n, L)``; how far they were from it, ``(n,)``."""

    metric: Tensor
    target: Tensor
    covered: Tensor
    whole: Tensor

    def ratios(self, after: Tensor) -> Tensor:
        return _distance(self.metric, after - self.target, self.covered) / self.whole

    def __getitem__(self, rows: slice) -> "_Goal":
        return _Goal(self.metric, self.target[rows], self.covered[rows], self.whole[rows])


@dataclass(frozen=True)
class _Compared:
    """Prompts, and what each may become.

    Attributes:
        hidden: what enters the first changed layer, ``(n, L, d)``.
        before: the embeddings without the change, ``(n, L, d)``.
        empty: of the empty prompt, ``(1, L, d)``.
        goals: the nearer counts.
    """

    hidden: Tensor
    before: Tensor
    empty: Tensor
    goals: Sequence[_Goal]

    def ratios(self, after: Tensor) -> Tensor:
        """Return each prompt's ratio to the nearer goal, ``(n,)``, from its embedding after, ``(n, L, d)``."""
        return torch.stack([goal.ratios(after) for goal in self.goals]).amin(0)

    def __getitem__(self, rows: slice) -> "_Compared":
        return _Compared(self.hidden[rows], self.before[rows], self.empty, [goal[rows] for goal in self.goals])


def _distance(metric: Tensor, difference: Tensor, covered: Tensor) -> Tensor:
    """Return the norms ``(n,)`` of ``(n, L, d)`` over the covered positions, in the metric."""
    seen = (difference @ metric * difference).sum(-1).clamp_min(0)
    return (seen * covered).sum(1).clamp_min(1e-12).sqrt()


def _attacked(compared: _Compared, encoder: ChangedEncoder) -> float:
    """Return the mean ratio after gradient steps that raise it."""
    hidden = compared.hidden
    radius = PERTURBATION * hidden.flatten(1).norm(dim=1)[:, None, None]
    moved = hidden
    for _ in range(_STEPS):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(compared.ratios(encoder.after(moved)).sum(), moved)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None] * radius
        change = moved.detach() + step - hidden
        shrink = (radius / change.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]).clamp(max=1)
        moved = hidden + change * shrink
    with torch.no_grad():
        return float(compared.ratios(encoder.after(moved)).mean())

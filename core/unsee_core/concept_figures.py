"""How far an erasure moved its concept, and how much of it is left: 1 for all, 0 where a prompt reached its goal."""

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
from unsee_core.spellings import PLURAL, plural, spellings

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
    context: EraseContext,
    encoder: ChangedEncoder,
    metric: Tensor,
    stand_in: str,
    *,
    with_spellings: bool = False,
) -> ConceptFigures:
    """Return a concept's figures, of which the erase ratio of a prompt p is how much of the concept it still says.

    Of the way d = E_0(p) - E_0(a(p)) it is the part that is left, ``<E_t(p) - E_0(a(p)), d>_M / <d, d>_M``, from the
    first position where p and a(p) differ: 1 where nothing was erased, 0 at the goal, less beyond it. a(p) is p with
    the anchor. Without an anchor it is p without the concept's words, the empty prompt, or for an object p with its
    stand-in: whichever leaves least, as some methods lead to the one and some to another. In the worst case the hidden
    states that enter the first changed layer take two gradient steps that raise it, each prompt's within 5 % of its own
    norm.

    Args:
        context: what the method worked with.
        encoder: with what it made.
        metric: of the cross-attention.
        stand_in: a noun that may take the concept's place; "" for none.
        with_spellings: measure other spellings too; pseudo-words have none.
    """
    # 1. Prompts: with the name, and with its other spellings.
    concept, anchor = context.job.concept, context.job.anchor or ""
    templates = HELD_OUT[concept.kind]
    has_spellings = with_spellings and not any(word.placeholder in concept.name for word in context.words)
    spelled = spellings(concept.name) if has_spellings else {}

    def parts_with(anchor: str) -> list[tuple[tuple[str, str], ...]]:
        anchors = (plural(anchor) if anchor and rule == PLURAL else anchor for rule in spelled)
        others = (Concept(name, kind=concept.kind) for name in spelled.values())
        few = templates[:_SPELLED_IN]
        return [
            pairs_of(concept, anchor, templates),
            *(pairs_of(*both, few) for both in zip(others, anchors, strict=True)),
        ]

    def becoming(anchor: str) -> list[str]:
        return [becomes for _, becomes in chain(*parts_with(anchor))]

    parts = parts_with(anchor)
    prompts, count = [prompt for prompt, _ in chain(*parts)], len(parts[0])
    goals = [becoming(anchor)]
    if not anchor:
        goals += [[""] * len(prompts), *([becoming(stand_in)] if stand_in else [])]
    compared = _compared(context, encoder, metric, prompts, goals)

    # 2. As they are.
    with torch.no_grad():
        after = encoder.after(compared.hidden)
        drifts, _ = drifts_of(metric, compared.before[:count], after[:count], compared.empty)
        ratios = compared.ratios(after)
    of_own, *of_spelled = ratios.split([len(part) for part in parts])

    # 3. In the worst case.
    plain, attacked = float(of_own.mean()), _attacked(compared[:count], encoder)
    return ConceptFigures(
        drifts=dict(zip(prompts[:count], drifts.tolist(), strict=True)),
        erase_ratio=plain,
        worst_erase_ratio=max(plain, attacked),
        spelling_ratios={rule: float(part.mean()) for rule, part in zip(spelled, of_spelled, strict=True)},
    )


@torch.no_grad()
def _compared(
    context: EraseContext,
    encoder: ChangedEncoder,
    metric: Tensor,
    prompts: Sequence[str],
    goals: Sequence[Sequence[str]],
) -> "_Compared":
    """Return prompts beside what each may become, of each goal another, prompt for prompt."""
    pipeline = context.pipeline
    texts = dict.fromkeys(("", *prompts, *chain.from_iterable(goals)))
    rows = {text: i for i, text in enumerate(texts)}
    vectors = without_padding(pipeline, prompt_vectors(pipeline, list(rows), context.words))
    hidden = hidden_from_vectors(pipeline, vectors, encoder.first_layer)
    before = encoder.before(hidden)

    own, end = [rows[prompt] for prompt in prompts], end_vector(pipeline)
    found = []
    for goal in goals:
        other = [rows[text] for text in goal]
        alignment = align(vectors[own], vectors[other], end)
        target = alignment.gather(before[other])
        way = before[own] - target
        seen = way @ metric * alignment.covered[..., None].to(before.device)
        found.append(_Goal(target, seen / (seen * way).sum((1, 2), keepdim=True).clamp_min(1e-12)))
    return _Compared(hidden[own], before[own], before[:1], found)


@dataclass(frozen=True)
class _Goal:
    """What prompts may become, ``(n, L, d)``, and the way back to what they were, scaled: its product with itself is 1.

    In the metric, and 0 where it does not count.
    """

    target: Tensor
    back: Tensor

    def ratios(self, after: Tensor) -> Tensor:
        return ((after - self.target) * self.back).sum((1, 2))

    def __getitem__(self, rows: slice) -> "_Goal":
        return _Goal(self.target[rows], self.back[rows])


@dataclass(frozen=True)
class _Compared:
    """Prompts, and what each may become.

    Attributes:
        hidden: what enters the first changed layer, ``(n, L, d)``.
        before: the embeddings without the change, ``(n, L, d)``.
        empty: of the empty prompt, ``(1, L, d)``.
        goals: that which leaves least counts.
    """

    hidden: Tensor
    before: Tensor
    empty: Tensor
    goals: Sequence[_Goal]

    def ratios(self, after: Tensor) -> Tensor:
        """Return each prompt's least ratio, ``(n,)``, from its embedding after, ``(n, L, d)``."""
        return torch.stack([goal.ratios(after) for goal in self.goals]).amin(0)

    def __getitem__(self, rows: slice) -> "_Compared":
        return _Compared(self.hidden[rows], self.before[rows], self.empty, [goal[rows] for goal in self.goals])


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

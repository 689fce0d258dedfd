"""How much of a concept an erasure leaves: 1 for no change, 0 where each prompt became its anchor's."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unsee_core.alignment import Alignment, align
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.encoder import token_vectors
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept
from unsee_core.methods.base import EraseContext
from unsee_core.prompts import HELD_OUT
from unsee_core.pseudo_words import prompt_vectors
from unsee_core.spellings import spellings

PERTURBATION = 0.05  # of the hidden states' own norm
_STEPS = 2
_SPELLED_IN = 3  # templates


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
        pairs = pairs_of(self._context.job.concept, self._anchor, HELD_OUT[self._context.job.concept.kind])
        prompts = [prompt for prompt, _ in pairs]
        goals = self._goals(pairs)
        hidden = self._encoder.hidden(prompts)
        with torch.no_grad():
            plain = _nearest(self._encoder.after(hidden), goals).mean()
        return float(plain), max(float(plain), float(self._attacked(hidden, goals)))

    @torch.no_grad()
    def of_spellings(self) -> Mapping[str, float]:
        """Return the ratio of each other spelling of the concept's name, by its rule; pseudo-words have none."""
        concept = self._context.job.concept
        if any(word.placeholder in concept.name for word in self._context.words):
            return {}
        return {rule: self._spelled(spelling) for rule, spelling in spellings(concept.name).items()}

    @property
    def _anchor(self) -> str:
        return self._context.job.anchor or ""

    def _spelled(self, spelling: str) -> float:
        concept = Concept(spelling, kind=self._context.job.concept.kind)
        pairs = pairs_of(concept, self._anchor, HELD_OUT[concept.kind][:_SPELLED_IN])
        after = self._encoder.after(self._encoder.hidden([prompt for prompt, _ in pairs]))
        return float(_nearest(after, self._goals(pairs)).mean())

    def _goals(self, pairs: Sequence[tuple[str, str]]) -> list["_Goal"]:
        prompts = [prompt for prompt, _ in pairs]
        before, _ = self._encoder(prompts)
        goals = [_Goal(self, prompts, before, [becomes for _, becomes in pairs])]
        if not self._anchor.strip():
            goals.append(_Goal(self, prompts, before, [""] * len(pairs)))
        return goals

    def _attacked(self, hidden: Tensor, goals: Sequence["_Goal"]) -> Tensor:
        radius = PERTURBATION * hidden.flatten(1).norm(dim=1)[:, None, None]
        moved = hidden
        for _ in range(_STEPS):
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(_nearest(self._encoder.after(moved), goals).sum(), moved)
            step = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None] * radius
            change = moved.detach() + step - hidden
            shrink = (radius / change.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]).clamp(max=1)
            moved = hidden + change * shrink
        with torch.no_grad():
            return _nearest(self._encoder.after(moved), goals).mean()

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """Return the vectors of the prompts' tokens, ``(n, L, d)``."""
        return prompt_vectors(self._context.pipeline, prompts, self._context.words)

    def end(self) -> Tensor:
        """Return the vector of the end token, ``(d,)``."""
        pipeline = self._context.pipeline
        return token_vectors(pipeline, torch.tensor(pipeline.tokenizer.eos_token_id)).float()

    def embedded(self, prompts: Sequence[str]) -> Tensor:
        """Return what the unchanged encoder makes of prompts, ``(n, L, d)``."""
        return self._encoder(prompts)[0]

    def distance(self, difference: Tensor, alignment: Alignment) -> Tensor:
        """Return the norms ``(n,)`` of ``(n, L, d)`` over the covered positions, in the metric."""
        seen = (difference @ self._metric * difference).sum(-1).clamp_min(0)
        return (seen * alignment.covered.to(seen.device)).sum(1).clamp_min(1e-12).sqrt()


class _Goal:
    """What prompts are to become, and how far it was from them."""

    def __init__(self, ratio: EraseRatio, prompts: Sequence[str], before: Tensor, becomes: Sequence[str]) -> None:
        self._ratio = ratio
        self._alignment = align(ratio.vectors(prompts), ratio.vectors(becomes), ratio.end())
        self._target = self._alignment.gather(ratio.embedded(becomes))
        self._distance = ratio.distance(before - self._target, self._alignment)

    def ratios(self, after: Tensor) -> Tensor:
        return self._ratio.distance(after - self._target, self._alignment) / self._distance


def _nearest(after: Tensor, goals: Sequence[_Goal]) -> Tensor:
    """Return each prompt's ratio to the nearer goal, ``(n,)``."""
    return torch.stack([goal.ratios(after) for goal in goals]).amin(0)

"""Which position of an anchor's prompt takes the place of each position of a concept's prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reach = Literal["words", "end", "padding"]
_GROUPS: dict[Reach, int] = {"words": 1, "end": 2, "padding": 4}


@dataclass(frozen=True)
class Alignment:
    """How prompts that name a concept lie beside the same prompts with its anchor; all on the CPU.

    Attributes:
        source: ``(n, L)`` long: the anchor's position that each position of the prompt goes to.
        covered: ``(n, L)`` bool: the positions from the first that differs on; those before it cannot see the concept.
        ends: ``(n,)`` long: position of each prompt's end token.
    """

    source: Tensor
    covered: Tensor
    ends: Tensor

    def of(self, numbers: Sequence[int]) -> "Alignment":
        """Return the alignment of some of the prompts."""
        rows = list(numbers)
        return Alignment(self.source[rows], self.covered[rows], self.ends[rows])

    def behind(self, tokens: Tensor) -> "Alignment":
        """Return the alignment of the prompts behind so many more tokens, ``(n,)``, with the same anchors.

        The tokens go nowhere, and what stood at the end of the padding has no place any more.
        """
        positions = torch.arange(self.source.shape[1]) - tokens[:, None]
        moved = positions.clamp_min(0)
        covered = self.covered.gather(1, moved) & (positions > 0)
        return Alignment(self.source.gather(1, moved), covered, self.ends + tokens)

    def gather(self, values: Tensor) -> Tensor:
        """Return an anchor's values ``(n, L, ...)`` where the concept's prompt has them."""
        index = self.source.to(values.device)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, index)

    def weights(self, reach: Reach = "padding") -> Tensor:
        """Return ``(n, L)`` weights that sum to 1, 0 where nothing is covered or beyond ``reach``.

        Of each prompt its words weigh as much as the first eight positions of padding, and as the rest of it, and twice
        as much as its end.
        """
        positions = torch.arange(self.source.shape[1])
        after = positions - self.ends[:, None]  # (n, L)
        groups = (
            (after < 0, 1.0),
            (after == 0, 0.5),
            ((after > 0) & (after <= NEAR_PADDING), 1.0),
            (after > NEAR_PADDING, 1.0),
        )
        weights = torch.zeros(self.source.shape)
        for chosen, share in groups[: _GROUPS[reach]]:
            members = (chosen & self.covered).float()
            weights += share * members / members.sum(1, keepdim=True).clamp_min(1)
        return weights / weights.sum()


NEAR_PADDING = 8


def align(prompts: Tensor, anchors: Tensor, end: Tensor) -> Alignment:
    """Align prompts with their anchors by their common beginning and their common ending.

    What stands between in the prompt goes to what stands between in the anchor, the last of it where that is shorter,
    and to the last position before it where there is nothing between.

    Args:
        prompts: tokens' vectors without positions, ``(n, L, d)``.
        anchors: the same of the anchors, row for row.
        end: vector of the end token, ``(d,)``.
    """
    lengths, anchor_lengths = ((side == end).all(-1).float().argmax(1).cpu() + 1 for side in (prompts, anchors))
    shortest = torch.minimum(lengths, anchor_lengths)
    positions = torch.arange(prompts.shape[1])[None]  # (1, L)

    # 1. How many tokens both begin with, and end with; later positions are padding.
    longest = int(shortest.max())
    is_inside = positions[:, :longest] < shortest[:, None]
    reversed_sides = _from_the_end(prompts, lengths, longest) == _from_the_end(anchors, anchor_lengths, longest)
    forwards = (prompts[:, :longest] == anchors[:, :longest]).all(-1).cpu() & is_inside
    backwards = reversed_sides.all(-1).cpu() & is_inside
    beginning, ending = (same.long().cumprod(1).sum(1) for same in (forwards, backwards))
    start = torch.minimum(beginning, shortest - 1)
    ending = torch.minimum(ending, shortest - start)

    # 2. Where each position goes.
    between = torch.minimum(positions, (anchor_lengths - ending - 1)[:, None])
    between = torch.maximum(between, (start - 1).clamp_min(0)[:, None])
    source = torch.where(positions < start[:, None], positions, between)
    is_ending = positions >= (lengths - ending)[:, None]
    source = torch.where(is_ending, positions + (anchor_lengths - lengths)[:, None], source)
    return Alignment(source.clamp(0, prompts.shape[1] - 1), positions >= start[:, None], lengths - 1)


def _from_the_end(values: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Return ``(n, count, d)`` values in reverse order from each row's end on; beyond its start that repeats."""
    index = (lengths[:, None] - 1 - torch.arange(count)).clamp_min(0).to(values.device)
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

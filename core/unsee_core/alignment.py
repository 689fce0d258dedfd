"""Which position of an anchor's prompt takes the place of each position of a concept's prompt."""

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
    same_end = (prompts == end).all(-1), (anchors == end).all(-1)
    ends, anchor_ends = (is_end.float().argmax(1) for is_end in same_end)
    rows = [
        _aligned(prompt, anchor, int(length), int(anchor_length))
        for prompt, anchor, length, anchor_length in zip(prompts, anchors, ends + 1, anchor_ends + 1, strict=True)
    ]
    covered = torch.stack([torch.arange(prompts.shape[1]) >= start for _, start in rows])
    return Alignment(torch.stack([source for source, _ in rows]), covered, ends.cpu())


def _aligned(prompt: Tensor, anchor: Tensor, length: int, anchor_length: int) -> tuple[Tensor, int]:
    """Return the anchor's position for each of ``(L, d)``, and the first position that differs."""
    shortest = min(length, anchor_length)
    same = (prompt[:shortest] == anchor[:shortest]).all(-1)
    start = min(int(same.long().cumprod(0).sum()), shortest - 1)
    backwards = (prompt[:length].flip(0)[:shortest] == anchor[:anchor_length].flip(0)[:shortest]).all(-1)
    ending = min(int(backwards.long().cumprod(0).sum()), shortest - start)
    positions = torch.arange(len(prompt))
    between = positions.clamp(max=anchor_length - ending - 1).clamp_min(max(start - 1, 0))
    source = torch.where(positions < start, positions, between)
    source = torch.where(positions >= length - ending, positions - length + anchor_length, source)
    return source.clamp(0, len(prompt) - 1), start

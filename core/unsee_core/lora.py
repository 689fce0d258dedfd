"""Low-rank factors for the text encoder, by the canonical names of the modules they change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class LoraPair:
    """A change ``B A`` of one projection; alpha is the rank, so nothing scales it.

    Attributes:
        a: ``(r, d_in)`` float32, on the CPU.
        b: ``(d_out, r)`` float32, on the CPU.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """Rank of the factors, r."""
        return len(self.a)


@dataclass(frozen=True)
class NormDelta:
    """What is added to ``text_model.final_layer_norm``: ``(d,)`` float32 each, on the CPU."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class LoraFactors:
    """What an adapter does to the text encoder.

    Attributes:
        pairs: by module path as in SD 2 checkpoints, ``text_model.encoder.layers.22.mlp.fc2``; at least one.
        final_norm: change of the final layer norm, which is no low-rank one.
    """

    pairs: Mapping[str, LoraPair]
    final_norm: NormDelta | None = None

    @property
    def rank(self) -> int:
        """Largest rank among the pairs."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that change, in order."""
        return tuple(sorted({int(_LAYER.match(path)[1]) for path in self.pairs}))  # type: ignore[index]

    @property
    def first_layer(self) -> int:
        """Number of the first layer that changes."""
        return self.layers[0]

    def scaled(self, factor: float) -> "LoraFactors":
        """Return the factors whose change is ``factor`` times this one; folded into B."""
        norm = self.final_norm
        return LoraFactors(
            pairs={path: LoraPair(pair.a, pair.b * factor) for path, pair in self.pairs.items()},
            final_norm=norm and NormDelta(norm.weight * factor, norm.bias * factor),
        )

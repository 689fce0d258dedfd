"""What a LoRA file says about its scale beside its tensors, in the words of peft's ``adapter_config.json``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from unsee_core.errors import AdapterFormatError

MAX_ALPHA = 1e6
_NAME = re.compile(r"[A-Za-z0-9_.]+\Z")


@dataclass(frozen=True)
class Scaling:
    """How far factors count: ``alpha / r``, or ``alpha / sqrt(r)`` where rank-stabilised.

    Attributes:
        alpha: of modules without one of their own.
        own_alphas: by whole module path or the end of one, as peft compares them.
        is_rank_stabilised: peft's ``use_rslora``.
    """

    alpha: float
    own_alphas: Mapping[str, float]
    is_rank_stabilised: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return what peft's configuration says.

        Raises:
            AdapterFormatError: it is none of a LoRA, or asks for what a change ``B A`` cannot be.
        """
        for name, allowed in (("peft_type", "LORA"), ("use_dora", False), ("fan_in_fan_out", False)):
            if config.get(name, allowed) != allowed:
                raise AdapterFormatError(f"adapter: {name} is {str(config[name])[:40]!r}, allowed {allowed!r}")
        pattern = config.get("alpha_pattern") or {}
        if not isinstance(pattern, dict) or not all(_NAME.match(name) for name in pattern):
            raise AdapterFormatError("adapter: alpha_pattern holds regular expressions, allowed names of modules")
        own = {name: _alpha(f"alpha_pattern[{name[:80]}]", value) for name, value in pattern.items()}
        return cls(_alpha("lora_alpha", config.get("lora_alpha")), own, bool(config.get("use_rslora")))

    def factor(self, path: str, rank: int) -> float:
        """Return the factor on ``B A`` of the module at ``path``."""
        own = (alpha for name, alpha in self.own_alphas.items() if f".{path}".endswith(f".{name}"))
        return next(own, self.alpha) / (rank**0.5 if self.is_rank_stabilised else rank)


def _alpha(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_ALPHA <= value <= MAX_ALPHA:
        raise AdapterFormatError(f"adapter: {name} is {str(value)[:40]}, allowed a number up to {MAX_ALPHA:.0f}")
    return float(value)

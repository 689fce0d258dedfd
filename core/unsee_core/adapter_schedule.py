"""When an adapter acts while a picture is drawn: its strength over the denoising steps.

Early steps settle what a picture shows and where, late ones how it looks; a text that is exchanged between them changes
one and keeps the other. So an adapter may act on a part of the steps alone.

Source: Uncovering the Disentanglement Capability in Text-to-Image Diffusion Models, arXiv:2212.08698, which learns a
mix of two texts' embeddings for every step. Ours: the mix is given, as an interval with ramps, and is one of the
adapter's weights rather than of embeddings, so that several adapters may have their own.
"""

from dataclasses import dataclass

from unsee_core.checks import check_range


@dataclass(frozen=True)
class AdapterSchedule:
    """The steps within which an adapter acts; outside them the encoder is as it would be without it.

    Attributes:
        start: share of the steps, in [0, 1], from which on it acts.
        end: share of the steps, in [0, 1], from which on it acts no more; not below ``start``.
        ramp: share of the steps, in [0, 1], over which the strength rises after ``start`` and falls before ``end``.
            At a ``start`` of 0 or an ``end`` of 1 there is none.
    """

    start: float = 0.0
    end: float = 1.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        check_schedule("adapters.schedule", self.start, self.end, self.ramp)

    def strength_at(self, step: int, total: int) -> float:
        """Return the strength in [0, 1] at a step, counted from 0, of so many; what counts is the step's middle."""
        share = (step + 0.5) / total
        if not self.start <= share < self.end:
            return 0.0
        rising = (share - self.start) / self.ramp if self.ramp and self.start > 0 else 1.0
        falling = (self.end - share) / self.ramp if self.ramp and self.end < 1 else 1.0
        return min(1.0, rising, falling)


def check_schedule(path: str, start: float, end: float, ramp: float) -> None:
    """Raise InvalidRequestError, naming the field below ``path``, unless they are shares and end where they may."""
    check_range(f"{path}.start", start, 0, 1)
    check_range(f"{path}.end", end, start, 1)
    check_range(f"{path}.ramp", ramp, 0, 1)

"""How a generation applies adapters and guards against what passes them; asked for, and told of in the result."""

from dataclasses import dataclass

from unsee.v1 import generate_pb2


@dataclass(frozen=True)
class AdapterSchedule:
    """An adapter's strength over the denoising steps; a step counts by its middle.

    Attributes:
        start: share of the steps from which on it acts, in [0, 1].
        end: share of the steps from which on it acts no more, in [start, 1].
        ramp: share of the steps over which it rises after ``start`` and falls before ``end``; at 0 and 1 it does not.
    """

    start: float = 0.0
    end: float = 1.0
    ramp: float = 0.0


@dataclass(frozen=True)
class AdapterRef:
    """An adapter to be applied, with all that may be said of it.

    Attributes:
        adapter: its name or digest.
        weight: factor on its change, in [-2, 2].
        schedule: on which steps it acts; None: on all.
        gate: it acts only on prompts that share a word with its concept; a paraphrase passes the gate.
    """

    adapter: str
    weight: float = 1.0
    schedule: AdapterSchedule | None = None
    gate: bool = False


@dataclass(frozen=True)
class Guard:
    """Steers the denoising away from concepts that show in it.

    Attributes:
        scale: how far, in (0, 10]; 2 is what it was tried with.
        words: prompts that say the concepts; none: the names of the concepts of the adapters applied.
    """

    scale: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter as it was applied.

    Attributes:
        base_mismatch: it was made on a text encoder with another digest.
        schedule: on which steps it acted; None: on all.
        gate: it was to act only on prompts that share a word with its concept.
        acts_on_prompt: no gate kept it from the prompt.
        acts_on_negative_prompt: no gate kept it from the negative prompt.
    """

    name: str
    digest: str
    weight: float
    base_mismatch: bool
    schedule: AdapterSchedule | None
    gate: bool
    acts_on_prompt: bool
    acts_on_negative_prompt: bool


def resolved_adapter(message: generate_pb2.ResolvedAdapter) -> ResolvedAdapter:
    """Return an adapter as it was applied from the wire."""
    schedule = message.schedule
    return ResolvedAdapter(
        name=message.name,
        digest=message.digest,
        weight=message.weight,
        base_mismatch=message.base_mismatch,
        schedule=AdapterSchedule(schedule.start, schedule.end, schedule.ramp) if message.HasField("schedule") else None,
        gate=message.gate,
        acts_on_prompt=message.acts_on_prompt,
        acts_on_negative_prompt=message.acts_on_negative_prompt,
    )

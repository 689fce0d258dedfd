"""Which of a request's adapters act on which of its prompts, and when; and what its guard looks for."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from unsee_core.answers import ResolvedAdapter
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.errors import InvalidRequestError
from unsee_core.gate import names_concept
from unsee_core.job import MAX_GUARD_WORDS, Concept, GenerateJob, Guard
from unsee_core.library import AdapterLibrary
from unsee_core.pseudo_words import is_placeholder

Application = tuple[AppliedAdapter, ResolvedAdapter]


def applications(job: GenerateJob, library: AdapterLibrary) -> tuple[Application, ...]:
    """Return the job's adapters, ready to apply, each with how it is applied.

    Raises:
        InvalidRequestError: one adapter is asked for twice, or a gate has no words to look for.
        NotFoundError: an adapter is unknown.
        BaseMismatchError: an adapter belongs to a model with other shapes.
    """
    applied: list[Application] = []
    for i, ref in enumerate(job.adapters):
        adapter, resolved = library.load(ref)
        if resolved.digest in {other.digest for _, other in applied}:
            raise InvalidRequestError.of(f"adapters[{i}]", f"got {resolved.digest} again, allowed once each")
        if ref.gate:
            resolved = _gated(resolved, job, library, f"adapters[{i}].gate")
        applied.append((adapter, resolved))
    return tuple(applied)


def filled_guard(job: GenerateJob, applied: Sequence[Application], library: AdapterLibrary) -> Guard:
    """Return the job's guard with the names of its adapters' concepts where it has no words; off, without any.

    Adapters that are not applied to weaken (weights up to 0) do not count.

    Raises:
        InvalidRequestError: there is nothing to guard against, or too much.
    """
    guard = job.guard
    if guard.scale == 0:
        return Guard()
    if guard.words:
        return dataclasses.replace(guard, words=tuple(dict.fromkeys(guard.words)))
    strong = [resolved for _, resolved in applied if resolved.weight > 0]
    words = tuple(dict.fromkeys(concept.name for one in strong for concept in _concepts(one, library)))
    if not 0 < len(words) <= MAX_GUARD_WORDS:
        allowed = f"1-{MAX_GUARD_WORDS}, given here or by the adapters' concepts"
        raise InvalidRequestError.of("guard.words", f"got {len(words)}, allowed {allowed}")
    return dataclasses.replace(guard, words=words)


class Conditioning:
    """A job's two prompts, encoded through the adapters that act on each of them at a step.

    Args:
        conditioner: encodes and remembers.
        job: its prompt and its negative prompt are read.
        applied: its adapters.
    """

    def __init__(self, conditioner: Conditioner, job: GenerateJob, applied: Sequence[Application]) -> None:
        self._conditioner = conditioner
        self._job = job
        self._applied = applied

    @property
    def is_constant(self) -> bool:
        """True if it is the same at every step."""
        return all(resolved.schedule is None for _, resolved in self._applied)

    def at(self, step: int, total: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the prompt and of the negative prompt, each ``(1, max_tokens, d)``."""
        on_prompt, on_negative = [], []
        for adapter, resolved in self._applied:
            strength = resolved.schedule.strength_at(step, total) if resolved.schedule else 1.0
            weighted = dataclasses.replace(adapter, weight=adapter.weight * strength)
            on_prompt += [weighted] * resolved.acts_on_prompt
            on_negative += [weighted] * resolved.acts_on_negative_prompt
        return (
            self._conditioner.encode([self._job.prompt], on_prompt),
            self._conditioner.encode([self._job.negative_prompt], on_negative),
        )


def _gated(resolved: ResolvedAdapter, job: GenerateJob, library: AdapterLibrary, path: str) -> ResolvedAdapter:
    concepts = _concepts(resolved, library)
    if not concepts:
        message = f"got true for {resolved.name!r}, whose concept has no name, allowed for adapters of a named concept"
        raise InvalidRequestError.of(path, message)
    return dataclasses.replace(
        resolved,
        gate=True,
        acts_on_prompt=any(names_concept(job.prompt, concept) for concept in concepts),
        acts_on_negative_prompt=any(names_concept(job.negative_prompt, concept) for concept in concepts),
    )


def _concepts(resolved: ResolvedAdapter, library: AdapterLibrary) -> tuple[Concept, ...]:
    """Return the concepts that an adapter erases, without such as nobody named: imported, or shown by images alone."""
    erased = library.manifest(resolved.digest).erased
    return tuple(concept for concept in erased if not is_placeholder(concept.name))

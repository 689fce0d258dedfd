"""What must stay, and what of it lies nearest to a concept and so is the first to suffer from its erasure."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from unsee_core.encoder import hidden_from_vectors
from unsee_core.methods.base import EraseContext
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.near_words import asked_embeddings, named_embeddings, photo_of, same_names, stand_in, vocabulary_names
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import prompt_vectors

COUNTED = 256  # nearest names whose drift is taken
NEAREST = 20  # of them, among which the worst are named
_BATCH = 128
_states: PerEncoder[Tensor] = PerEncoder(4)


@dataclass(frozen=True)
class MustStay:
    """What must stay.

    Attributes:
        others: numbers of the vocabulary's names that name something else: the nearest 256, the nearest first.
        asked: what request and store name, by name; each with the prompt by which it is measured.
    """

    others: tuple[int, ...]
    asked: Mapping[str, str]


def asked_of(retain_prompts: Sequence[str], stored: Sequence[str], same: AbstractSet[str]) -> dict[str, str]:
    """Return the retain prompts and the stored concepts that have other names than ``same``, each with its prompt."""
    others = {name: photo_of(name) for name in sorted(set(stored)) if name.strip() and name.lower() not in same}
    return others | {prompt: prompt for prompt in retain_prompts}


def named_states(pipeline: Pipeline, layer: int) -> Tensor:
    """Return the hidden states with which the vocabulary's names enter a layer, ``(n, 16, d)`` float32 on the CPU.

    As many positions as ``named_embeddings`` has; the last four answers of a text encoder are kept.
    """
    names = vocabulary_names(pipeline)
    positions = named_embeddings(pipeline).shape[1]

    def computed() -> Tensor:
        parts = [list(map(photo_of, names[i : i + _BATCH])) for i in range(0, len(names), _BATCH)]
        vectors = (prompt_vectors(pipeline, part, ())[:, :positions] for part in parts)
        return torch.cat([hidden_from_vectors(pipeline, part, layer).cpu() for part in vectors])

    return _states.get(pipeline.text_encoder, (layer, names), computed)


@torch.no_grad()
def others_by_distance(context: EraseContext, same: AbstractSet[str]) -> tuple[int, ...]:
    """Return the numbers of the 256 nearest names of the vocabulary other than ``same``, the nearest first."""
    pipeline, words = context.pipeline, context.job.concept.words
    metric = cross_attention_metric(pipeline.unet)
    known, asked = named_embeddings(pipeline), asked_embeddings(pipeline, words, context.words)[:-1]
    distances = torch.stack([seen_distance(metric, known, one.expand_as(known)) for one in asked]).amin(0)
    names = vocabulary_names(pipeline)
    others = (i for i in distances.argsort(stable=True).tolist() if names[i].lower() not in same)
    return tuple(islice(others, COUNTED))


def stand_in_of(context: EraseContext) -> str:
    """Return the noun that may take the place of a context's concept; "" where it has an anchor, or there is none."""
    if context.job.anchor:
        return ""
    return stand_in(context.pipeline, context.job.concept, names_of(context), context.words)


def names_of(context: EraseContext) -> frozenset[str]:
    """Return in lower case what need not stay: the names of the concept and of what the adapters in force erase.

    With the vocabulary's other names of them.
    """
    near = {word.lower() for word in context.near_words}
    gone = (name for adapter in context.in_force for name in adapter.names)
    return same_names(context.pipeline, [*context.job.concept.words, *gone], context.words) | near

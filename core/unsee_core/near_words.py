"""Which words of a vocabulary mean to the U-Net what a concept means: distances between names, in its metric."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unsee_core.encoder import hidden_from_vectors, shared_tail
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import with_article
from unsee_core.pseudo_words import PseudoWord, prompt_vectors

SAME = 0.3  # of a word's distance to the empty prompt; nearer words are other names of it
_POSITIONS = 16  # later ones are padding, which tells nothing more
_BATCH = 128
_known: PerEncoder[Tensor] = PerEncoder(8)


def named_embeddings(pipeline: Pipeline, among: tuple[str, ...] | None = None) -> Tensor:
    """Return the embeddings of words, ``(n, 16, d)`` float32; None: of ``vocabulary_names``.

    Each in "a photo of a dog"; the last eight answers of a text encoder are kept in memory.
    """
    words = vocabulary_names(pipeline) if among is None else among
    return _known.get(pipeline.text_encoder, words, lambda: embeddings_of(pipeline, words))


def photo_of(name: str) -> str:
    """Return the prompt by which a name is measured."""
    return f"a photo of {with_article(name)}"


def vocabulary_names(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the vocabulary's nouns, looks, people and further words, in that order; each once."""
    vocabulary = pipeline.vocabulary
    return tuple(dict.fromkeys((*vocabulary.nouns, *vocabulary.looks, *vocabulary.people, *vocabulary.further)))


@torch.no_grad()
def embeddings_of(pipeline: Pipeline, names: Sequence[str], words: Sequence[PseudoWord] = ()) -> Tensor:
    """Return what the U-Net reads of "a photo of" each name, ``(n, 16, d)`` float32; "" is the empty prompt."""
    tail = shared_tail(pipeline, pipeline.encoder_layers)
    found = []
    for i in range(0, len(names), _BATCH):
        prompts = [photo_of(name) if name else "" for name in names[i : i + _BATCH]]
        vectors = prompt_vectors(pipeline, prompts, words)[:, :_POSITIONS]
        found.append(tail(hidden_from_vectors(pipeline, vectors, pipeline.encoder_layers)))
    return torch.cat(found)


def same_names(
    pipeline: Pipeline,
    names: Sequence[str],
    words: Sequence[PseudoWord] = (),
    *,
    among: tuple[str, ...] | None = None,
) -> frozenset[str]:
    """Return the words, in lower case, that are other names of any of ``names``, these included.

    Args:
        pipeline: the resident model; read only.
        names: of a concept.
        words: pseudo-words whose placeholders stand in the names.
        among: the words that may be; None: those of ``vocabulary_names``.
    """
    looked_at = vocabulary_names(pipeline) if among is None else among
    metric = cross_attention_metric(pipeline.unet)
    known, asked = named_embeddings(pipeline, looked_at), embeddings_of(pipeline, [*names, ""], words)
    same = torch.zeros(len(known), dtype=torch.bool, device=known.device)
    for one in asked[:-1]:
        limit = SAME * seen_distance(metric, one[None], asked[-1:])
        same |= seen_distance(metric, known, one.expand_as(known)) <= limit
    near = (word for word, is_same in zip(looked_at, same.tolist(), strict=True) if is_same)
    return frozenset(word.lower() for word in (*near, *names))

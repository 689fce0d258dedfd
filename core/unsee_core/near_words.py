"""Which words of a vocabulary mean to the U-Net what a concept means, or may stand for it: by their distances."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from unsee_core.encoder import hidden_from_vectors, shared_tail
from unsee_core.job import Concept
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import with_article
from unsee_core.pseudo_words import PseudoWord, prompt_vectors

FEWEST = 3  # nouns of which one may stand in
SAME = 0.3  # of a word's distance to the empty prompt; nearer words are other names of it
_POSITIONS = 16  # later ones are padding, which tells nothing more
_BATCH = 128
_known: PerEncoder[Tensor] = PerEncoder(8)
_asked: PerEncoder[Tensor] = PerEncoder(8)


def named_embeddings(pipeline: Pipeline, among: tuple[str, ...] | None = None) -> Tensor:
    """Return the embeddings of words, ``(n, 16, d)`` float32; None: of ``vocabulary_names``.

    Each in "a photo of a dog"; the last eight answers of a text encoder are kept in memory.
    """
    words = vocabulary_names(pipeline) if among is None else among
    return _known.get(pipeline.text_encoder, words, lambda: embeddings_of(pipeline, words))


def asked_embeddings(pipeline: Pipeline, names: Sequence[str], words: Sequence[PseudoWord] = ()) -> Tensor:
    """Return the embeddings of a concept's names and, last, of the empty prompt, ``(n + 1, 16, d)`` float32.

    As ``embeddings_of``; where no pseudo-words stand in them, the last eight answers of a text encoder are kept.
    """
    asked = (*names, "")
    if words:
        return embeddings_of(pipeline, asked, words)
    return _asked.get(pipeline.text_encoder, asked, lambda: embeddings_of(pipeline, asked))


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
    distances, sizes = _distances(pipeline, names, words, named_embeddings(pipeline, looked_at))
    same = (distances <= SAME * sizes[:, None]).any(0)
    near = (word for word, is_same in zip(looked_at, same.tolist(), strict=True) if is_same)
    return frozenset(word.lower() for word in (*near, *names))


def stand_in(pipeline: Pipeline, concept: Concept, named: AbstractSet[str], words: Sequence[PseudoWord] = ()) -> str:
    """Return a noun that may take an object's place: unlike it, and no more unlike than it need be; "" for none.

    Of the vocabulary's nouns the nearest to the object's name that does not belong to the nearest third; there is none
    among fewer than three.

    Args:
        pipeline: the resident model; read only.
        concept: the object; concepts of other kinds have none.
        named: what is no stand-in, in lower case.
        words: pseudo-words whose placeholders stand in the concept's name.
    """
    if concept.kind != "object":
        return ""
    nouns = pipeline.vocabulary.nouns
    distances, _ = _distances(pipeline, [concept.name], words, named_embeddings(pipeline)[: len(nouns)])
    others = [nouns[i] for i in distances[0].argsort(stable=True).tolist() if nouns[i].lower() not in named]
    return others[len(others) // 3] if len(others) >= FEWEST else ""


def _distances(
    pipeline: Pipeline, names: Sequence[str], words: Sequence[PseudoWord], known: Tensor
) -> tuple[Tensor, Tensor]:
    """Return distances ``(names, known)``, and of each name to the empty prompt, ``(names,)``."""
    metric = cross_attention_metric(pipeline.unet)
    asked, empty = asked_embeddings(pipeline, names, words).split([len(names), 1])
    distances = torch.stack([seen_distance(metric, known, one.expand_as(known)) for one in asked])
    return distances, seen_distance(metric, asked, empty.expand_as(asked))

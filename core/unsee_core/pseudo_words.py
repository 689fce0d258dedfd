"""Words that no vocabulary has: learned input vectors, and prompts in which a placeholder stands for them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unsee_core.encoder import end_vector, hidden_from_vectors, token_vectors, tokenize
from unsee_core.job import Concept
from unsee_core.pipeline import Pipeline

_SHORTEST = 20  # positions
_PLACEHOLDER = re.compile(r"<images-\d+>\Z")


@dataclass(frozen=True)
class PseudoWord:
    """Vectors that the text encoder reads where a prompt has the placeholder.

    Attributes:
        placeholder: as it stands in prompts; looked for as it is, upper and lower case told apart.
        vectors: ``(n, d)``, one for each token that the word takes; as the encoder looks them up, without positions.
    """

    placeholder: str
    vectors: Tensor


def placeholder(number: int) -> str:
    """Return what stands in prompts for the pseudo-word of a number."""
    return f"<images-{number + 1}>"


def is_placeholder(word: str) -> bool:
    """Return whether a word is a placeholder."""
    return _PLACEHOLDER.match(word) is not None


def named_only(concept: Concept) -> Concept:
    """Return a concept without the placeholders beside its name, which say nothing more; a name that is one stays."""
    if is_placeholder(concept.name):
        return concept
    return replace(concept, synonyms=tuple(word for word in concept.synonyms if not is_placeholder(word)))


def prompt_vectors(pipeline: Pipeline, prompts: Sequence[str], words: Sequence[PseudoWord]) -> Tensor:
    """Return the vectors of the prompts' tokens, ``(B, max_tokens, d)`` float32 on the device, without positions.

    Tokens are started, ended, cut and padded as ``encoder.tokenize`` does. Gradients flow to the words' vectors. The
    resident encoder is only read.
    """
    by_placeholder = {word.placeholder: word.vectors.to(pipeline.device).float() for word in words}
    rows = {i: prompt for i, prompt in enumerate(prompts) if any(word in prompt for word in by_placeholder)}
    with torch.no_grad():
        vectors = token_vectors(pipeline, tokenize(pipeline, prompts)[0]).float()
    if not rows:
        return vectors
    told = torch.stack([_vectors(pipeline, prompt, by_placeholder) for prompt in rows.values()])
    return vectors.index_copy(0, torch.tensor(list(rows), device=vectors.device), told)


def end_positions(pipeline: Pipeline, vectors: Tensor) -> Tensor:
    """Return the position of the token that ends each prompt, ``(B,)`` long, from the prompts' vectors."""
    return (vectors == end_vector(pipeline)).all(-1).float().argmax(1)


def without_padding(pipeline: Pipeline, vectors: Tensor) -> Tensor:
    """Return prompts' vectors ``(B, L, d)`` without the positions that are padding of all: 20 are left at least.

    Later padding tells nothing more: positions see only those before them.
    """
    return vectors[:, : int(_lengths(pipeline, vectors).max())]


def is_no_padding(pipeline: Pipeline, vectors: Tensor) -> Tensor:
    """Return of prompts' vectors ``(B, L, d)`` which positions ``without_padding`` leaves each alone, ``(B, L)``."""
    positions = torch.arange(vectors.shape[1], device=vectors.device)
    return positions < _lengths(pipeline, vectors)[:, None]


def _lengths(pipeline: Pipeline, vectors: Tensor) -> Tensor:
    return (end_positions(pipeline, vectors) + 2).clamp_min(_SHORTEST)


def hidden_before_words(pipeline: Pipeline, prompts: Sequence[str], words: Sequence[PseudoWord], layer: int) -> Tensor:
    """Return the hidden states that enter ``layer``, ``(B, max_tokens, d)`` float32, as ``encoder.hidden_before``."""
    with torch.no_grad():
        return hidden_from_vectors(pipeline, prompt_vectors(pipeline, prompts, words), layer)


def _vectors(pipeline: Pipeline, prompt: str, words: Mapping[str, Tensor]) -> Tensor:
    tokenizer, length = pipeline.tokenizer, pipeline.max_tokens
    start, end, padding = (
        _looked_up(pipeline, [number])
        for number in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    )
    kept = torch.cat([start, *_parts(pipeline, prompt, words)])[: length - 1]
    return torch.cat([kept, end, padding.expand(length - len(kept) - 1, -1)])


def _parts(pipeline: Pipeline, prompt: str, words: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the vectors of the words and of the text between them, each ``(tokens, d)``."""
    pattern = "|".join(map(re.escape, words))
    for part in re.split(f"({pattern})", prompt) if words else [prompt]:
        if part in words:
            yield words[part]
        elif part.strip():
            yield _looked_up(pipeline, pipeline.tokenizer(part, add_special_tokens=False, verbose=False).input_ids)


def _looked_up(pipeline: Pipeline, numbers: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return token_vectors(pipeline, torch.tensor(numbers)).float()

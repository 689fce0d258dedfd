"""Texts that stand before a prompt, as an adversarial one has them: random tokens, and nouns at random."""

import random
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

from unsee_core.encoder import tokenize
from unsee_core.naming import Naming
from unsee_core.pipeline import Pipeline

MOST_TOKENS = 6
NOUNS = 0.75
HELD = 2  # prompts for each prefix that a concept's word is led behind


def random_prefixes(pipeline: Pipeline, count: int) -> tuple[str, ...]:
    """Return texts of 1-6 random tokens each; the same for the same tokenizer."""
    draw = random.Random(0)  # noqa: S311 - which tokens is no secret
    return tuple(_prefix(pipeline, draw) for _ in range(count))


def prefixes_without(pipeline: Pipeline, named: AbstractSet[str], count: int) -> tuple[str, ...]:
    """Return texts of 1-6 parts without any of the names: of four parts three are nouns of the vocabulary.

    The others are random tokens.

    Args:
        pipeline: its tokenizer and vocabulary are read.
        named: in lower case.
        count: how many to return.
    """
    draw, naming = random.Random(2), Naming(named, pipeline.vocabulary)  # noqa: S311 - which is no secret
    nouns = [noun for noun in pipeline.vocabulary.nouns if naming.first_in(noun) is None]
    tokens = _texts(pipeline, draw)

    def text() -> str:
        parts = range(draw.randint(1, MOST_TOKENS))
        return " ".join(draw.choice(nouns) if nouns and draw.random() < NOUNS else next(tokens) for _ in parts)

    texts = iter(text, None)
    return tuple(islice((one for one in texts if naming.first_in(one) is None), count))


def behind_prefixes(pipeline: Pipeline, prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """Return some of ``prompts`` behind other random prefixes than those of ``random_prefixes``, and some alone.

    Args:
        pipeline: its tokenizer is read.
        prompts: at least one.
        count: how many to return; in every fourth the prefix stands alone.
    """
    draw = random.Random(1)  # noqa: S311 - which tokens is no secret
    texts = ((_prefix(pipeline, draw), draw.choice(prompts) if i % 4 else "") for i in range(count))
    return tuple(f"{prefix} {prompt}".strip() for prefix, prompt in texts)


def behind(pipeline: Pipeline, prefixes: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return each prompt behind its prefix; alone where the encoder would not read both whole."""
    texts = [f"{prefix} {prompt}".strip() for prefix, prompt in zip(prefixes, prompts, strict=True)]
    _, cut_off = tokenize(pipeline, texts)
    return [prompt if cut else text for text, prompt, cut in zip(texts, prompts, cut_off, strict=True)]


def readable(pipeline: Pipeline, number: int) -> str:
    """Return a token's text; "" for one that no text gives: a special one, a space, a part of a character."""
    tokenizer = pipeline.tokenizer
    text: str = tokenizer.decode([number]).strip()
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return text if number not in special and text.isprintable() and "\ufffd" not in text else ""


def _prefix(pipeline: Pipeline, draw: random.Random) -> str:
    texts = _texts(pipeline, draw)
    return " ".join(next(texts) for _ in range(draw.randint(1, MOST_TOKENS)))


def _texts(pipeline: Pipeline, draw: random.Random) -> Iterator[str]:
    while True:
        if text := readable(pipeline, draw.randrange(pipeline.text_encoder.config.vocab_size)):
            yield text

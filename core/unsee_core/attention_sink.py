"""A concept's name as an attention sink: what stands behind it in a prompt hardly sees what stood before it.

An adversarial prompt says other things before the name, which the U-Net then draws as the concept, though nothing is
left of the name itself. Here the keys of all attention layers, from the first whose inputs know the name on, get a
change of rank one, so that every position from the name on attends to the name:

    k'(x) = k(x) + u (w x)
    w ~ argmin  mean_i (w x_i - 1)^2 + sum_J mean_(j in J) (w x_j)^2 + ridge |w|^2,   scaled so that mean_i w x_i = 1
    u = argmin  mean_p (q_p u - m_p)^2 + ridge |u|^2        in each head
    m_p = sqrt(d) max(0, MARGIN + logsumexp_(t <= p) (q_p k_t / sqrt(d)) - q_p k_i / sqrt(d))

with x what enters the attention; i the name's last token, in the first layer its own one, see below; J what stands
before it, prompts without the name, and in the first layer all tokens; p the positions from the name on; d a head's
width; and the ridge a share, RIDGE, of the mean of the moments' diagonal: e^MARGIN times as much attention goes to the
name as to all that p sees.
Those positions then carry the name alone, so that what leads it elsewhere leads all of them; and as the keys of what
carries the name are raised, too, they go on to see each other and nothing before. Layer after layer, each as the
changes before it leave it.

Sources: StreamingLLM, arXiv:2309.17453, for the term, and that a token can draw all attention. Ours: a name that does.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, cycle

import torch
from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.encoder import KEY_PREFIX, EncoderTail, token_vectors, with_positions
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.naming import Naming
from unsee_core.near_words import vocabulary_names
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import TRAINED, with_article
from unsee_core.pseudo_words import (
    PseudoWord,
    end_positions,
    is_no_padding,
    is_placeholder,
    prompt_vectors,
    without_padding,
)
from unsee_core.random_prefixes import behind, prefixes_without, random_prefixes, readable
from unsee_core.retained import vocabulary_prompts

MARGIN = 4.0
RIDGE = 1e-3  # as a share of the inputs' mean second moment
PREFIXES = 48
WITHOUT_PREFIX = 4  # of so many prompts one
RANDOM = 128  # texts of random tokens that are held
BATCH = 128  # prompts


def attention_sink(
    pipeline: Pipeline,
    tail: EncoderTail,
    concept: Concept,
    words: Sequence[PseudoWord],
    named: AbstractSet[str],
    retain_prompts: Sequence[str],
) -> Generator[EraseProgress, None, LoraFactors]:
    """Make a concept's words attention sinks, yielding after every layer.

    Args:
        pipeline: the resident model; read only.
        tail: all layers, as adapters in force leave them; a private one, whose keys change.
        concept: an object, a person or a brand: what a style is applied to stands before its name.
        words: that stand in its name and synonyms.
        named: other words for it, and its own, in lower case: they stand in no prompt that is held.
        retain_prompts: held, too.

    Returns:
        Factors of rank 1 of the layers' ``k_proj``, without a strength.
    """
    # 1. Prompts of the concept, and all others.
    naming = Naming(named, pipeline.vocabulary)

    def without_names(texts: Iterable[str]) -> list[str]:
        return [text for text in texts if naming.first_in(text) is None]

    prefixes = prefixes_without(pipeline, named, PREFIXES)
    said = [*_sayings(pipeline, concept, prefixes)]
    prompts = prompt_vectors(pipeline, [one.prompt for one in said], words)
    names = end_positions(pipeline, prompt_vectors(pipeline, [one.upto for one in said], words)) - 1  # (n,)
    known = without_names(vocabulary_prompts(pipeline.vocabulary))
    some_behind = behind(pipeline, prefixes[: len(known)], known[: len(prefixes)])
    held = [*known, *without_names((*some_behind, *random_prefixes(pipeline, RANDOM), *retain_prompts))]
    own = _Own(pipeline, [*known, *without_names((*vocabulary_names(pipeline), *retain_prompts))])
    after_own = torch.tensor([own.tokens_behind(one.word) for one in said], device=names.device)  # (n,)
    with torch.no_grad():
        led = with_positions(pipeline, prompts)
        vectors = without_padding(pipeline, prompt_vectors(pipeline, held, ()))
        others, is_read = with_positions(pipeline, vectors), is_no_padding(pipeline, vectors)
        tokens = torch.cat([*_all_tokens(pipeline, naming)])

    # 2. Layer by layer; the first one sees tokens, and no name of several.
    pairs = {}
    for layer in range(pipeline.encoder_layers):
        back = after_own if layer == 0 else torch.zeros_like(after_own)
        is_seen = back >= 0
        if is_seen.any():
            path = f"encoder.layers.{layer}.self_attn.k_proj"
            held_sets = (others[is_read], tokens) if layer == 0 else (others[is_read],)
            pair = _solve_layer(tail, layer, led[is_seen], (names - back)[is_seen], held_sets)
            pairs[KEY_PREFIX + path] = pair
            tail.get_parameter(f"{path}.weight").add_((pair.b @ pair.a).to(led.device))
        led, others = (_output(tail, layer, states) for states in (led, others))
        yield EraseProgress("prepare", layer + 1, pipeline.encoder_layers)
    return LoraFactors(pairs)


@torch.no_grad()
def _output(tail: EncoderTail, layer: int, hidden: Tensor) -> Tensor:
    """Return a layer's output, from part after part of the prompts: the MLP's units are four times as many."""
    return torch.cat([tail.output(layer, part) for part in hidden.split(BATCH)])


@torch.no_grad()
def _solve_layer(tail: EncoderTail, layer: int, led: Tensor, names: Tensor, held_sets: Sequence[Tensor]) -> LoraPair:
    """Return a layer's change, from prompts ``(n, L, d)``, the names' positions ``(n,)``, and sets of ``(m, d)``."""
    inputs, queries, keys = tail.attention_inputs(layer, led)  # (n, L, d), and (n, heads, L, d_head) twice
    positions = torch.arange(inputs.shape[1], device=inputs.device)
    is_before = positions < names[:, None]
    at_name = inputs[torch.arange(len(inputs), device=inputs.device), names]

    # 1. What tells the name from all else.
    elsewhere = (inputs[is_before], *(tail.normed(layer, held) for held in held_sets))
    moment = torch.stack([some.T @ some / len(some) for some in (at_name, *elsewhere)]).sum(0)
    detector = _ridge_solution(moment, at_name.mean(0))
    detector = detector / (at_name @ detector).mean()

    # 2. What the queries from the name on are to find there, more than they do.
    width = queries.shape[-1]
    logits = queries @ keys.mT / math.sqrt(width)  # (n, heads, L, L)
    logits = logits.masked_fill(positions > positions[:, None], -math.inf)
    of_name = logits.take_along_dim(names[:, None, None, None], -1)[..., 0]
    missing = math.sqrt(width) * (MARGIN + logits.logsumexp(-1) - of_name).clamp_min(0)  # (n, heads, L)
    drawn = []
    for q, wanted in zip(queries.unbind(1), missing.unbind(1), strict=True):
        asking, asked = q[~is_before], wanted[~is_before]
        drawn.append(_ridge_solution(asking.T @ asking / len(asking), asking.T @ asked / len(asking)))
    return LoraPair(a=detector[None].cpu(), b=torch.cat(drawn)[:, None].cpu())


def _ridge_solution(moment: Tensor, target: Tensor) -> Tensor:
    regular = moment.double()
    regular.diagonal().add_(RIDGE * regular.diagonal().mean())
    solution: Tensor = torch.linalg.solve(regular, target.double())
    return solution.float()


def _all_tokens(pipeline: Pipeline, naming: Naming) -> Iterator[Tensor]:
    """Yield what enters the first layer for all tokens that a text can give, without the names, ``(n, d)`` each."""
    numbers = range(pipeline.text_encoder.config.vocab_size)
    texts = ((number, readable(pipeline, number)) for number in numbers)
    allowed = torch.tensor([number for number, text in texts if text and naming.first_in(text) is None])
    for rows in allowed.split(pipeline.max_tokens):
        yield with_positions(pipeline, token_vectors(pipeline, rows).float()[None])[0]


@dataclass(frozen=True)
class _Saying:
    """A prompt of the concept, the part of it that ends with the word, and the word."""

    prompt: str
    upto: str
    word: str


def _sayings(pipeline: Pipeline, concept: Concept, prefixes: Sequence[str]) -> Iterator[_Saying]:
    """Yield each word in the trained templates, three of four behind a prefix where both fit."""
    before = [prefix if i % WITHOUT_PREFIX else "" for i, prefix in enumerate(prefixes)]
    for word in concept.words:
        templates = [template for template, _ in zip(cycle(TRAINED[concept.kind]), before, strict=False)]
        prompts = [template.format(word, a=with_article(word)) for template in templates]
        after = [len(template.partition("}")[2]) for template in templates]
        for text, length in zip(behind(pipeline, before, prompts), after, strict=True):
            yield _Saying(text, text[: len(text) - length], word)


class _Own:
    """Finds the token of a word that stands for nothing else.

    Args:
        pipeline: its tokenizer is read.
        held: prompts and names of other things.
    """

    def __init__(self, pipeline: Pipeline, held: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._known = set(chain.from_iterable(pipeline.tokenizer(list(held), verbose=False).input_ids if held else ()))

    def tokens_behind(self, word: str) -> int:
        """Return how many tokens of a word stand behind its longest one that no other prompt has; -1 for none."""
        if is_placeholder(word):
            return 0
        numbers = self._pipeline.tokenizer(word, add_special_tokens=False, verbose=False).input_ids[::-1]
        own = (i for i, number in enumerate(numbers) if number not in self._known)
        return max(own, key=lambda i: len(readable(self._pipeline, numbers[i])), default=-1)

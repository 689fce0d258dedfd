"""What a closed form holds still: states of prompts in a model's own vocabulary, computed once for a text encoder."""

import hashlib
import logging
import random
import threading
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unsee_core.encoder import EncoderTail, hidden_before, shared_tail, token_counts, tokenize
from unsee_core.joint_solve import HELD_CUTS, CutGroup, States, cut_groups
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import TRAINED, with_article
from unsee_core.vocabulary import Vocabulary

MOST_PROMPTS = 384
_BATCH = 64
_IN_LOOKS = tuple(template for template in TRAINED["style"] if "{x}" in template)
_LOOKS_EACH = 2
_parts: PerEncoder[tuple["KnownPart", ...]] = PerEncoder(3)
logger = logging.getLogger(__name__)


def vocabulary_prompts(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return prompts that say what a model draws: each noun alone, beside another and in two looks; at most 384.

    Which of them there are depends on the vocabulary alone.
    """
    draw = random.Random(0)  # noqa: S311 - which prompts is no secret
    alone, nouns, looks = TRAINED["object"], vocabulary.nouns, vocabulary.looks
    prompts = [*vocabulary.scenes, *(f"a photo of {name}" for name in vocabulary.people)]
    for i, noun in enumerate(nouns):
        named, other = with_article(noun), draw.choice(nouns)
        prompts += [alone[i % len(alone)].format(noun, a=named), f"{named} and {with_article(other)}"]
        for j in range(i * _LOOKS_EACH, (i + 1) * _LOOKS_EACH):
            look, template = looks[j % len(looks)], _IN_LOOKS[j % len(_IN_LOOKS)]
            prompts.append(template.format(look, a=with_article(look), x=named))
    return tuple(prompts if len(prompts) <= MOST_PROMPTS else draw.sample(prompts, MOST_PROMPTS))


@dataclass(frozen=True)
class KnownPart:
    """Some prompts on their way through the resident encoder's last layers, in float32.

    Attributes:
        numbers: of the prompts.
        states: ``(n, L, d)`` each, on the device: what enters the first layer, then each layer's output.
        keys: ``(n, L, d_ff)``: what enters the first layer's ``fc2``.
    """

    numbers: tuple[int, ...]
    states: tuple[Tensor, ...]
    keys: Tensor

    def of(self, kept: AbstractSet[int], *, is_changed: bool) -> States:
        """Return these prompts alone; where the layers are not the resident encoder's, what enters the first alone."""
        rows = [i for i, number in enumerate(self.numbers) if number in kept]
        if is_changed:
            return States.held(self.states[0][rows])
        now, *known = (states[rows] for states in self.states)
        return States.held(now, known, self.keys[rows])


def known_parts(pipeline: Pipeline, layer: int, texts: Sequence[str]) -> tuple[KnownPart, ...]:
    """Return prompts that do not depend on a job from a layer on: in the groups of ``cut_groups``.

    The last three answers of a text encoder are kept in memory; what enters the layer is kept in the pipeline's cache
    folder, too, where it has one.
    """
    facts = [pipeline.digests.text_encoder, pipeline.digests.tokenizer, str(pipeline.dtype), str(layer), *texts]
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]

    def computed() -> tuple[KnownPart, ...]:
        hidden = _read_or_compute(pipeline, layer, texts, key).to(pipeline.device)
        tail = shared_tail(pipeline, layer)
        groups = cut_groups(token_counts(pipeline, texts), hidden.shape[1], HELD_CUTS)
        return tuple(_known(tail, hidden, one) for one in groups)

    return _parts.get(pipeline.text_encoder, key, computed)


def _known(tail: EncoderTail, hidden: Tensor, group: CutGroup) -> KnownPart:
    rows = hidden[list(group.numbers), : group.length]
    keys, _ = tail.mlp_keys(tail.first_layer, rows)
    return KnownPart(group.numbers, tuple(tail.states(rows)), keys)


def _read_or_compute(pipeline: Pipeline, layer: int, texts: Sequence[str], key: str) -> Tensor:
    path = pipeline.cache_folder / f"retained-{key}.safetensors" if pipeline.cache_folder else None
    if path and path.is_file():
        try:
            return load_file(path)["hidden"]
        except (SafetensorError, OSError, KeyError) as error:
            logger.warning("the cached %s cannot be read and is made again: %s", path, error)
    input_ids, _ = tokenize(pipeline, texts)
    hidden = torch.cat([hidden_before(pipeline, batch, layer).cpu() for batch in input_ids.split(_BATCH)])
    if path:
        _write(path, hidden)
    return hidden


def _write(path: Path, hidden: Tensor) -> None:
    """Write the states so that another process finds them whole or not at all; a full disk costs the cache alone."""
    partial = path.with_suffix(f".{threading.get_native_id()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"hidden": hidden}, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be written; it is computed again after a restart: %s", path, error)

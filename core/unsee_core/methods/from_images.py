"""Images alone: without a name, what they show is learned as pseudo-words, and any method erases those.

1. Textual inversion through the frozen encoder learns pseudo-words of one and of two tokens.
2. Everyday words that may be the concept's true name leave the retain prompts, which would hold what is to be erased:
   those whose embedding points nearly where a pseudo-word's does, from the empty prompt, as cross-attention sees it.

On the embedded model the true name was among the two nearest words for every pseudo-word but one (images of a car; the
other word found "car"), but not always first, and the U-Net's loss on the images told no better. So near words are not
held, and not erased by name either. The name goes along with the pseudo-words where it lies near them: of prompts that
say it, few_shot_lora erased 18 of 20 (cat), 17 (rose), 20 (car) and none (plane); sdd 3 (cat).

Sources: An Image is Worth One Word, arXiv:2208.01618; BLIP-Diffusion, arXiv:2305.14720, for the thought that a picture
becomes a subject in the space of words. Ours: no network is trained for it, and what is found is erased, not drawn.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch

from unsee_core.answers import EraseProgress
from unsee_core.encoder import EncoderTail, with_positions
from unsee_core.image_loss import encode_latents
from unsee_core.inversion import Budget, Inversion, InversionProgress, invert
from unsee_core.job import Concept, ConceptKind
from unsee_core.methods.base import EraseContext
from unsee_core.methods.retaining import ENCODE_BATCH
from unsee_core.metric import cross_attention_metric
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import THINGS, everyday_words, with_article
from unsee_core.pseudo_words import PseudoWord, placeholder, prompt_vectors

TOKENS = (1, 2)
STEPS = 80
NEAR = 0.9  # of the nearest word's cosine
_TEMPLATES: dict[ConceptKind, tuple[str, ...]] = {
    "style": ("a picture in {} style", *(f"{thing} in {{}} style" for thing in THINGS)),
    "person": ("a photo of {}", "a portrait of {}", "a picture of {}", "{}"),
}
_OBJECT = ("a photo of a {}", "a picture of a {}", "a {}", "{}")
_COMPARED: dict[ConceptKind, str] = {"style": "a picture in {} style", "person": "a photo of {}"}


def named_by_images(context: EraseContext) -> Generator[EraseProgress, None, EraseContext]:
    """Learn pseudo-words from the context's images, yielding after every step, and return a context that names them.

    Args:
        context: with at least one image; of its concept only the kind is read.

    Returns:
        The context with the placeholders as the concept's name and synonym, the pseudo-words, and the words near them.
    """
    pipeline, job = context.pipeline, context.job
    generator = torch.Generator().manual_seed(job.seed)
    latents, encoder = encode_latents(pipeline, context.images), EncoderTail(pipeline, 0)
    templates = _TEMPLATES.get(job.concept.kind, _OBJECT)
    words: list[PseudoWord] = []
    for number, tokens in enumerate(TOKENS):
        budget = Budget(tokens=tokens, steps=STEPS, restarts=1, patience=STEPS)
        steps = invert(pipeline, latents, encoder, budget, generator=generator, templates=templates)
        found = yield from _told(steps, done=number * STEPS, total=len(TOKENS) * STEPS)
        words.append(PseudoWord(placeholder(number), found.word.vectors))
    near = near_words(pipeline, encoder, words, job.concept.kind)
    name, *synonyms = (word.placeholder for word in words)
    concept = Concept(name, tuple(synonyms), job.concept.kind)
    return replace(context, job=replace(job, concept=concept), words=tuple(words), near_words=near)


@torch.no_grad()
def near_words(
    pipeline: Pipeline, encoder: EncoderTail, words: Sequence[PseudoWord], kind: ConceptKind
) -> tuple[str, ...]:
    """Return the everyday words of a kind that may name what pseudo-words do: of each the nearest and the next to it.

    Args:
        pipeline: the resident model; read only.
        encoder: the frozen encoder from its first layer on.
        words: at least one.
        kind: of the concept; chooses the everyday words, and the template that all are compared in.
    """
    everyday = everyday_words(kind)
    names = (*everyday, *(word.placeholder for word in words))
    prompts = ["", *(_COMPARED.get(kind, "a photo of {a}").format(name, a=with_article(name)) for name in names)]
    batches = [prompts[i : i + ENCODE_BATCH] for i in range(0, len(prompts), ENCODE_BATCH)]
    vectors = [with_positions(pipeline, prompt_vectors(pipeline, batch, words)) for batch in batches]
    embeddings = torch.cat([encoder(hidden) for hidden in vectors])
    directions = embeddings[1:] - embeddings[0]  # (n, 77, d)
    products = (directions @ cross_attention_metric(pipeline.unet)).flatten(1) @ directions.flatten(1).T
    lengths = products.diagonal().clamp_min(1e-12).sqrt()
    cosines = (products / lengths / lengths[:, None])[len(everyday) :, : len(everyday)]
    near = (cosines >= NEAR * cosines.amax(1, keepdim=True)).any(0).tolist()
    return tuple(word for word, is_near in zip(everyday, near, strict=True) if is_near)


def _told(
    steps: Generator[InversionProgress, None, Inversion], *, done: int, total: int
) -> Generator[EraseProgress, None, Inversion]:
    """Pass an inversion's steps on as those of an erasure."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            found: Inversion = end.value
            return found
        yield EraseProgress("prepare", done + event.step, total, {"inversion": event.loss})

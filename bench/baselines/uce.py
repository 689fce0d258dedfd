"""UCE: the U-Net's cross-attention reads the concept's words as it read the anchor's, by one ridge regression.

For each projection W of ``to_k`` and ``to_v``, with the concept's embeddings c_i, their targets t_i and the embeddings
c_j that must stay:

    W' = (a sum_i W t_i c_i^T + b sum_j W c_j c_j^T + r W) (a sum_i c_i c_i^T + b sum_j c_j c_j^T + r I)^-1

which minimises ``a sum |W' c_i - W t_i|^2 + b sum |W' c_j - W c_j|^2 + r |W' - W|^2``. An embedding is a position of an
encoded prompt: of the concept's prompts all from its first token on, against the same position of the anchor's.
Concept and retain prompts are the server's own, those that the project's methods learn from.

Source: Gandikota et al., Unified Concept Editing in Diffusion Models, arXiv:2308.14761.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.baselines.base import Baseline, Changed, ChangedRun, bytes_of
from unsee_core.answers import EraseProgress
from unsee_core.encoder import tokenize
from unsee_core.methods import EraseContext
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import anchor_prompts, forget_prompts, retain_prompts

_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """The weights of the three terms; sums are means here, so that the number of prompts does not matter.

    Attributes:
        erase: a, on the mean over the concept's positions.
        preserve: b, on the mean over the positions that must stay.
        ridge: r, in units of the embeddings' mean square.
    """

    erase: float = 1.0
    preserve: float = 1.0
    ridge: float = 1e-3


@torch.no_grad()
def run(context: EraseContext, recipe: Recipe) -> ChangedRun:
    """Edit a copy of the U-Net, yielding after the encoding and after the edit."""
    pipeline, concept = context.pipeline, context.job.concept
    sources, targets = concept_positions(pipeline, context)
    retained = _encode(pipeline, ["", *retain_prompts(concept), *context.job.retain_prompts])[:, 1:].flatten(0, 1)
    yield EraseProgress("prepare", 1, 1)

    unet = copy.deepcopy(pipeline.unet)
    projections = cross_projections(unet)
    for projection in projections:
        weight = edit_projection(projection.weight, sources, targets, retained, recipe)
        projection.weight.copy_(weight)
    yield EraseProgress("train", 1, 1)
    return Changed(replace(pipeline, unet=unet), bytes_of(projection.weight for projection in projections))


def edit_projection(weight: Tensor, sources: Tensor, targets: Tensor, retained: Tensor, recipe: Recipe) -> Tensor:
    """Return the projection that treats each source as its target and each retained embedding as before.

    Args:
        weight: ``(d_out, d)``; read, never written.
        sources: ``(n, d)`` float32.
        targets: ``(n, d)``, row for row.
        retained: ``(m, d)``.
        recipe: the terms' weights.
    """
    weight = weight.float()
    erase, preserve = recipe.erase / len(sources), recipe.preserve / len(retained)
    moment = erase * sources.T @ sources + preserve * retained.T @ retained  # (d, d)
    moved = erase * targets.T @ sources + preserve * retained.T @ retained
    ridge = recipe.ridge * retained.square().mean() * torch.eye(len(moment), device=moment.device)
    edit: Tensor = torch.linalg.solve(moment + ridge, moved + ridge, left=False)
    return weight @ edit


def cross_projections(unet: nn.Module) -> list[nn.Linear]:
    """Return the U-Net's projections of text."""
    linear = ((name, module) for name, module in unet.named_modules() if isinstance(module, nn.Linear))
    return [module for name, module in linear if name.endswith(("attn2.to_k", "attn2.to_v"))]


def concept_positions(pipeline: Pipeline, context: EraseContext) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the concept and where they go, ``(n, d)`` float32 each, row for row.

    Prompts of a style where the thing stands after the style are left out: no position of theirs has a counterpart.
    """
    concept = context.job.concept
    pairs = zip(forget_prompts(concept), anchor_prompts(concept, context.job.anchor or ""), strict=True)
    kept = [(prompt, anchor) for prompt, anchor in pairs if context.job.anchor or prompt.startswith(anchor)]
    prompts, anchors = zip(*kept, strict=True)
    first = [first_token(pipeline, prompt, concept.words) for prompt in prompts]
    encoded, moved = _encode(pipeline, prompts), _encode(pipeline, anchors)
    sources = torch.cat([row[start:] for row, start in zip(encoded, first, strict=True)])
    return sources, torch.cat([row[start:] for row, start in zip(moved, first, strict=True)])


def first_token(pipeline: Pipeline, prompt: str, words: Sequence[str]) -> int:
    """Return the position of the first token of the first of ``words`` that the prompt holds."""
    for word in sorted(words, key=len, reverse=True):
        before, found, _ = prompt.partition(word)
        if found:
            return 1 + len(pipeline.tokenizer.tokenize(before))
    raise ValueError(f"prompt: got {prompt!r}, must hold one of {', '.join(words)}")


def _encode(pipeline: Pipeline, prompts: Sequence[str]) -> Tensor:
    """Return ``(n, L, d)`` float32 embeddings."""
    parts = []
    for start in range(0, len(prompts), _BATCH):
        input_ids, _ = tokenize(pipeline, prompts[start : start + _BATCH])
        parts.append(pipeline.text_encoder(input_ids.to(pipeline.device))[0].float())
    return torch.cat(parts)


BASELINE = Baseline("uce", "arXiv:2308.14761", Recipe(), run)

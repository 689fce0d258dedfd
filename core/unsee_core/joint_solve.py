"""Many prompts led to others, and all the rest held still, by least squares in the encoder's last MLPs.

For each of the last layers, from the first to the last of them, with k what enters ``fc2``, h the layer's output, h*
the output that the prompt is to have there and h0 the one that a held prompt had:

    dW = argmin  sum_concepts sum_i w_i |dW k_i - (h*_i - h_i)|^2
               + retain_weight mean_j |dW k_j - (h0_j - h_j)|^2 + ridge |dW|^2

h and k are those after the layers before have changed, so that a later layer leads on what is left, and mends what was
moved. In the last layer distances are measured as the U-Net's cross-attention sees them, which decides what survives
the cut to a low rank. No gradients, no U-Net.

Sources: UCE, arXiv:2308.14761; EMCID, arXiv:2403.13807; ReFACT, arXiv:2306.00738. Ours: every position from the concept
on is led, to the same prompt without it; what later layers mend; the metric; activation-aware cutting; joint solving.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.alignment import Reach, align
from unsee_core.answers import EraseProgress
from unsee_core.encoder import KEY_PREFIX, EncoderTail, hidden_from_vectors, token_vectors
from unsee_core.least_squares import low_rank, solve_change
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.metric import cross_attention_metric
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord, prompt_vectors

SHORT = 16  # positions; of most prompts later ones, all padding, are left out: they see the same and cost the most
_FULL_EVERY = 8  # prompts; this one's later positions stand for those of all


@dataclass(frozen=True)
class Recipe:
    """How the solve weighs what it does.

    Attributes:
        layers: how many of the last layers change.
        rank: of each layer's factors.
        retain_weight: on held prompts, each position alike, against the led ones, which weigh 1 a concept.
        ridge: pull towards no change, as a share of the inputs' mean second moment.
        empty_rows: how many held prompts the empty one, which every guided picture uses, weighs as.
        use_metric: the last layer's factors are cut in the cross-attention metric; else in the plain distance.
        reach: the last positions that are led: a prompt's words, the end token too, or the padding too.
        beside: prompts with another thing, for each of a concept's words.
    """

    layers: int = 3
    rank: int = 12
    retain_weight: float = 20.0
    ridge: float = 3e-3
    empty_rows: int = 16
    use_metric: bool = True
    reach: Reach = "padding"
    beside: int = 84


@dataclass
class States:
    """Rows on their way through the layers: what enters the next one as it is now, and as it shall be.

    Attributes:
        now: ``(n, L, d)`` float32.
        wanted: of the prompts that these are to become, row for row as long; of held ones, the same as ``now``.
        source: ``(n, L)`` position of ``wanted`` that each position goes to; None: its own.
        weights: ``(n, L)``; rows of weight 0 are only looked through.
    """

    now: Tensor
    wanted: Tensor
    source: Tensor | None
    weights: Tensor

    def targets(self, outputs: Tensor) -> Tensor:
        """Return ``(n, L, d)`` outputs of the wanted rows where the rows have them."""
        if self.source is None:
            return outputs
        return outputs.gather(1, self.source[..., None].expand(-1, -1, outputs.shape[-1]))


def led_states(
    pipeline: Pipeline,
    pairs: Sequence[tuple[str, str]],
    words: Sequence[PseudoWord],
    first_layer: int,
    reach: Reach = "padding",
) -> list[States]:
    """Return the states of prompts and of what each becomes; weights sum to 1 over all."""
    groups = [pairs[::_FULL_EVERY], [pair for i, pair in enumerate(pairs) if i % _FULL_EVERY]]
    parts = [_Part(group, is_short=i > 0, reach=reach) for i, group in enumerate(groups) if group]
    states = [_led(pipeline, part, words, first_layer, len(pairs) / len(groups[0])) for part in parts]
    total = sum(float(part.weights.sum()) for part in states)
    for part in states:
        part.weights /= total
    return states


def held_states(hidden: Tensor, share: float) -> list[States]:
    """Return the states of held prompts ``(n, L, d)``, most cut short; weights sum to ``share`` over all."""
    groups = (hidden[::_FULL_EVERY], hidden[torch.arange(len(hidden)) % _FULL_EVERY > 0][:, :SHORT])
    weight = share / hidden[..., 0].numel()
    states = [States(group, group, None, torch.full_like(group[..., 0], weight)) for group in groups if len(group)]
    states[0].weights[:, SHORT:] *= len(hidden) / len(groups[0])
    return states


def solve(
    pipeline: Pipeline, tail: EncoderTail, rows: Sequence[States], recipe: Recipe
) -> Generator[EraseProgress, None, LoraFactors]:
    """Solve layer by layer, yielding after every layer, and return the factors; the rows are used up.

    Args:
        pipeline: the resident model; its U-Net is read for the metric.
        tail: the layers from the first that any row enters; read only. It may carry changes that are in force.
        rows: led and held ones.
        recipe: of the solve; ``layers`` are the last ones of the tail.
    """
    pairs: dict[str, LoraPair] = {}
    solved = 0
    for layer in range(tail.first_layer, pipeline.encoder_layers):
        if layer < pipeline.encoder_layers - recipe.layers:
            _pass_through(tail, layer, rows)
            continue
        is_last = layer == pipeline.encoder_layers - 1
        metric = _output_metric(pipeline, tail) if is_last and recipe.use_metric else None
        pairs[f"{KEY_PREFIX}encoder.layers.{layer}.mlp.fc2"] = _solve_layer(tail, layer, rows, recipe, metric)
        solved += 1
        yield EraseProgress("train", solved, recipe.layers)
    return LoraFactors(pairs)


@dataclass(frozen=True)
class _Part:
    pairs: Sequence[tuple[str, str]]
    is_short: bool
    reach: Reach


def _led(pipeline: Pipeline, part: _Part, words: Sequence[PseudoWord], layer: int, standing_for: float) -> States:
    """Return the states of pairs, cut short or else with late positions that stand for so many prompts each."""
    prompts, becomes = (prompt_vectors(pipeline, side, words) for side in zip(*part.pairs, strict=True))
    end = token_vectors(pipeline, torch.tensor(pipeline.tokenizer.eos_token_id)).float()
    alignment = align(prompts, becomes, end)
    length = max(SHORT, int(alignment.ends.max()) + 2) if part.is_short else prompts.shape[1]
    now, wanted = (hidden_from_vectors(pipeline, side[:, :length], layer) for side in (prompts, becomes))
    source = alignment.source[:, :length].clamp(max=length - 1).to(now.device)
    weights = alignment.weights(part.reach)[:, :length] * len(part.pairs)
    if not part.is_short:
        weights[:, SHORT:] *= standing_for
    return States(now, wanted, source, weights.to(now.device))


@torch.no_grad()
def _solve_layer(
    tail: EncoderTail, layer: int, rows: Sequence[States], recipe: Recipe, metric: Tensor | None
) -> LoraPair:
    fc2 = tail.get_submodule(f"encoder.layers.{layer}.mlp.fc2")
    passed = []
    gram = cross = torch.zeros((), device=rows[0].now.device)
    for part in rows:
        keys, attended = tail.mlp_keys(layer, part.now)
        output = attended + fc2(keys)
        wanted = _output(tail, layer, part.wanted) if part.wanted is not part.now else output
        weighted = keys * part.weights[..., None]
        gram = gram + weighted.flatten(0, 1).T @ keys.flatten(0, 1)
        cross = cross + weighted.flatten(0, 1).T @ (part.targets(wanted) - output).flatten(0, 1)
        passed.append((keys, output, wanted))
    gram.diagonal().add_(recipe.ridge * gram.diagonal().mean())
    pair = low_rank(solve_change(gram, cross), gram, metric, recipe.rank)
    for part, (keys, output, wanted) in zip(rows, passed, strict=True):
        part.now = output + keys @ pair.a.to(keys.device).T @ pair.b.to(keys.device).T
        part.wanted = wanted
    return pair


@torch.no_grad()
def _pass_through(tail: EncoderTail, layer: int, rows: Sequence[States]) -> None:
    for part in rows:
        is_held = part.wanted is part.now
        part.now = _output(tail, layer, part.now)
        part.wanted = part.now if is_held else _output(tail, layer, part.wanted)


def _output(tail: EncoderTail, layer: int, hidden: Tensor) -> Tensor:
    keys, attended = tail.mlp_keys(layer, hidden)
    output: Tensor = attended + tail.get_submodule(f"encoder.layers.{layer}.mlp.fc2")(keys)
    return output


def _output_metric(pipeline: Pipeline, tail: EncoderTail) -> Tensor:
    """Return the metric before the final norm, whose scale goes into it; its centring and its length do not."""
    scale = tail.final_layer_norm.weight.detach()
    metric = scale[:, None] * cross_attention_metric(pipeline.unet) * scale
    metric.diagonal().add_(1e-4 * metric.diagonal().mean())
    return metric

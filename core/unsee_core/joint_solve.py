"""Many prompts led to others, and all the rest held still, by least squares in the encoder's last MLPs.

For each of the last layers, from the first to the last of them, with k what enters ``fc2``, h the layer's output, h*
the output that the prompt is to have there and h0 the one that a held prompt had:

    dW = argmin  sum_concepts sum_i w_i |dW k_i - (1 + b_i) (h*_i - h_i)|^2
               + retain_weight mean_j |dW k_j - (h0_j - h_j)|^2 + ridge |dW|^2

b is 0, or ``beyond`` in prompts that name no other thing: without their concept they say nothing in particular, and a
model draws anything, by chance the concept, too; led further, it draws something else.

h and k are those after the layers before have changed, so that a later layer leads on what is left, and mends what was
moved. In the last layer distances are measured as the U-Net's cross-attention sees them, which decides what survives
the cut to a low rank. No gradients, no U-Net.

Sources: UCE, arXiv:2308.14761; EMCID, arXiv:2403.13807; ReFACT, arXiv:2306.00738. Ours: every position from the concept
on is led, position by position, and beyond; what later layers mend; the metric; activation-aware cutting;
joint solving.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.alignment import NEAR_PADDING, Reach, align
from unsee_core.answers import EraseProgress
from unsee_core.encoder import KEY_PREFIX, EncoderTail, end_vector, hidden_from_vectors
from unsee_core.erase_pairs import name_nothing
from unsee_core.least_squares import add_second_moment, solve_low_rank
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.metric import cross_attention_metric
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord, end_positions, prompt_vectors
from unsee_core.random_prefixes import behind

FULL_EVERY = 24  # prompts; of the others late positions, all padding, are left out: they see the same and cost the most
LED_CUTS, HELD_CUTS = (12, 16), (8, 10, 16)  # positions


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
        beyond: how much further prompts are led that name no other thing, as a share of the way left in each layer.
        beside: prompts with another thing, for each of a concept's words.
        in_looks: templates, 1-3, in which a concept stands in every look.
        prefixes: prompts led behind random tokens, for each of a concept's words; twice as many are held in all.
        stand_in: a noun takes the place of an object without an anchor, where nothing else is named.
        most_strength: the most, 1 at least, that is chosen for the change where none is given.
    """

    layers: int = 3
    rank: int = 12
    retain_weight: float = 80.0
    ridge: float = 3e-3
    empty_rows: int = 16
    use_metric: bool = True
    reach: Reach = "padding"
    beyond: float = 0.0
    beside: int = 48
    in_looks: int = 1
    prefixes: int = 0
    stand_in: bool = True
    most_strength: float = 1.0


@dataclass
class States:
    """Rows on their way through the layers: what enters the next one as it is now, and as it shall be.

    Attributes:
        now: ``(n, L, d)`` float32.
        wanted: of the prompts that these are to become, row for row as long; of held ones, the same as ``now``.
        source: ``(n, L)`` position of ``wanted`` that each position goes to; None: its own.
        weights: ``(n, L)``; rows of weight 0 are only looked through.
        beyond: ``(n,)`` how much further than to ``wanted`` a row is led; None: none.
        known: what ``wanted`` is after each of the coming layers, where that was computed before; else empty.
        keys: what enters the first layer's ``fc2``, where that was; ``known`` has that layer's output then.
    """

    now: Tensor
    wanted: Tensor
    source: Tensor | None
    weights: Tensor
    beyond: Tensor | None = None
    known: tuple[Tensor, ...] = ()
    keys: Tensor | None = None

    @classmethod
    def held(cls, now: Tensor, known: Sequence[Tensor] = (), keys: Tensor | None = None) -> "States":
        """Return rows that shall stay as they are, of weight 1."""
        return cls(now, now, None, torch.ones_like(now[..., 0]), known=tuple(known), keys=keys)

    def way(self, wanted: Tensor, output: Tensor) -> Tensor:
        """Return what a layer is to add to its output, ``(n, L, d)``, from what it makes of ``wanted`` and ``now``."""
        if self.source is not None:
            wanted = wanted.gather(1, self.source[..., None].expand(-1, -1, wanted.shape[-1]))
        way = wanted - output
        return way if self.beyond is None else way * (1 + self.beyond[:, None, None])

    def wanted_after(self, tail: EncoderTail, layer: int, output: Tensor) -> Tensor:
        """Return ``wanted`` after a layer that makes ``output`` of ``now``."""
        if self.wanted is self.now:
            return output
        return self.known[0] if self.known else tail.output(layer, self.wanted)

    def go_on(self, now: Tensor, wanted: Tensor) -> None:
        """Stand after a layer."""
        self.now, self.wanted, self.known, self.keys = now, wanted, self.known[1:], None

    def keys_and_output(self, tail: EncoderTail, layer: int) -> tuple[Tensor, Tensor]:
        """Return what enters a layer's ``fc2``, and the layer's output."""
        if self.keys is not None:
            return self.keys, self.known[0]
        keys, attended = tail.mlp_keys(layer, self.now)
        return keys, attended + tail.get_submodule(f"encoder.layers.{layer}.mlp.fc2")(keys)


def led_states(
    pipeline: Pipeline,
    pairs: Sequence[tuple[str, str]],
    words: Sequence[PseudoWord],
    first_layer: int,
    recipe: Recipe,
    prefixes: Sequence[str] = (),
) -> list[States]:
    """Return the states of prompts and of what each becomes; weights sum to 1 over all.

    Args:
        pipeline: the resident model; read only.
        pairs: of a prompt and what it becomes.
        words: that stand in them.
        first_layer: the first that the states enter.
        recipe: of the solve.
        prefixes: each stands before a prompt, which takes turns, where both fit, and not before what that becomes.
    """
    prompts, becomes = (prompt_vectors(pipeline, side, words) for side in zip(*pairs, strict=True))
    alignment = align(prompts, becomes, end_vector(pipeline))
    if prefixes:
        turns = [i % len(pairs) for i in range(len(prefixes))]
        pairs = [pairs[i] for i in turns]
        bare_ends, becomes = alignment.ends[turns], becomes[turns]
        prompts = prompt_vectors(pipeline, behind(pipeline, prefixes, [prompt for prompt, _ in pairs]), words)
        alignment = alignment.of(turns).behind(end_positions(pipeline, prompts).cpu() - bare_ends)
    needed = (alignment.ends + 1 + NEAR_PADDING // 2).tolist()
    beyond = torch.zeros(len(pairs), device=pipeline.device)
    if recipe.beyond:
        beyond[[*name_nothing([text for _, text in pairs], pipeline.vocabulary)]] = recipe.beyond
    all_weights, states = alignment.weights(recipe.reach), []
    for group in cut_groups(needed, prompts.shape[1], LED_CUTS):
        rows = list(group.numbers)
        now, wanted = (
            hidden_from_vectors(pipeline, side[rows, : group.length], first_layer) for side in (prompts, becomes)
        )
        source = alignment.source[rows, : group.length].clamp(max=group.length - 1).to(now.device)
        weights = all_weights[rows, : group.length].to(now.device)
        states.append(States(now, wanted, source, weights, beyond[rows]))
    _stand_for_all(states)
    total = sum(float(part.weights.sum()) for part in states)
    for part in states:
        part.weights /= total
    return states


def held_states(hidden: Tensor, share: float) -> list[States]:
    """Return the states of held prompts ``(n, L, d)``, most cut short; weights sum to ``share`` over all."""
    groups = cut_groups([HELD_CUTS[-1]] * len(hidden), hidden.shape[1], HELD_CUTS)
    return weigh([States.held(hidden[list(group.numbers), : group.length]) for group in groups], share)


@dataclass(frozen=True)
class CutGroup:
    """Prompts of which so many positions are kept.

    Attributes:
        numbers: of the prompts.
        length: positions.
    """

    numbers: tuple[int, ...]
    length: int


def cut_groups(needed: Sequence[int], length: int, cuts: Sequence[int]) -> list[CutGroup]:
    """Return prompts in groups: first some that keep all of ``length`` positions, then those cut short.

    Args:
        needed: positions of each prompt.
        length: the most positions.
        cuts: ascending; a prompt is cut at the first that it fits, and else keeps all.
    """
    by_cut: dict[int, list[int]] = {length: [], **{cut: [] for cut in cuts if cut < length}}
    for i, positions in enumerate(needed):
        fits = (cut for cut in cuts if positions <= cut < length and i % FULL_EVERY)
        by_cut[next(fits, length)].append(i)
    return [CutGroup(tuple(numbers), cut) for cut, numbers in by_cut.items() if numbers]


def weigh(parts: Sequence[States], share: float) -> list[States]:
    """Return the states of held prompts, without empty parts; each prompt's each position weighs alike.

    Args:
        parts: by ``cut_groups``; their weights are set. The first part's late positions stand for those cut off.
        share: sum of the weights.
    """
    weight = share / (sum(len(part.now) for part in parts) * parts[0].now.shape[1])
    for part in parts:
        part.weights = torch.full_like(part.weights, weight)
    _stand_for_all(parts)
    return [part for part in parts if len(part.now)]


def _stand_for_all(parts: Sequence[States]) -> None:
    """Let the first part's late positions weigh for those that the other parts lack."""
    full = parts[0].weights
    positions = torch.arange(full.shape[1], device=full.device)
    lacking = [(part.weights.shape[1] <= positions) * len(part.weights) for part in parts[1:]]
    parts[0].weights = full * (1 + torch.stack([torch.zeros_like(full[0]), *lacking]).sum(0) / max(1, len(full)))


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


@torch.no_grad()
def _solve_layer(
    tail: EncoderTail, layer: int, rows: Sequence[States], recipe: Recipe, metric: Tensor | None
) -> LoraPair:
    passed = []
    width, inner = tail.get_parameter(f"encoder.layers.{layer}.mlp.fc2.weight").shape
    gram, cross = (torch.zeros(inner, size, device=rows[0].now.device) for size in (inner, width))
    for part in rows:
        keys, output = part.keys_and_output(tail, layer)
        wanted = part.wanted_after(tail, layer, output)
        weighted = add_second_moment(gram, keys.flatten(0, 1), part.weights.flatten())
        if wanted is not output:
            cross.addmm_(weighted.T, part.way(wanted, output).flatten(0, 1))
        passed.append((keys, output, wanted))
    gram.diagonal().add_(recipe.ridge * gram.diagonal().mean())
    pair = solve_low_rank(gram, cross, metric, recipe.rank)
    for part, (keys, output, wanted) in zip(rows, passed, strict=True):
        part.go_on(output + keys @ pair.a.to(keys.device).T @ pair.b.to(keys.device).T, wanted)
    return pair


@torch.no_grad()
def _pass_through(tail: EncoderTail, layer: int, rows: Sequence[States]) -> None:
    for part in rows:
        _, output = part.keys_and_output(tail, layer)
        part.go_on(output, part.wanted_after(tail, layer, output))


def _output_metric(pipeline: Pipeline, tail: EncoderTail) -> Tensor:
    """Return the metric before the final norm, whose scale goes into it; its centring and its length do not."""
    scale = tail.final_layer_norm.weight.detach()
    metric = scale[:, None] * cross_attention_metric(pipeline.unet) * scale
    metric.diagonal().add_(1e-4 * metric.diagonal().mean())
    return metric

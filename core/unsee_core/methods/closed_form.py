"""Erasing without training: prompts of the concept are led to others that do not name it, by least squares.

1. The concept's prompts (name, synonyms, templates; beside other things and in other looks, from the vocabulary), each
   with the prompt that it is to become: with the anchor, or without the word; where an object's prompt then names
   nothing, with a noun that stands in for it.
2. What is held: prompts of the model's vocabulary that name neither the concept nor what means the same to the U-Net;
   the request's retain prompts; the empty prompt.
3. One solve a layer in the last layers' MLPs; see ``unsee_core.joint_solve``.
4. The strength, where none is given: the most up to a bound at which the held prompts stay; found without a picture.

With ``image_words = n`` the images are inverted to a pseudo-word of n tokens that is erased too; with ``harden = n``
textual inversion goes through the erased encoder n times, and what it finds is erased as well. With
``random_prefixes`` the concept's prompts are led behind random tokens too, and others held there. With ``beyond``
nothing stands in, prompts that name no other thing are led beyond what they become, and the concept beside more things.
With ``strict`` the concept's words are attention sinks, by a change of all layers' keys; see
``unsee_core.attention_sink``. What ``harden`` finds is none.

Sources: see ``unsee_core.joint_solve``; RECE, arXiv:2407.12383, for erasing again what is found; textual inversion,
arXiv:2208.01618; Ablating Concepts, arXiv:2303.13516, for another thing in its place. Ours: what is said
above. Never run on a GPU.
"""

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.answers import EraseProgress, Phase
from unsee_core.attention_sink import attention_sink
from unsee_core.encoder import EncoderTail, apply_factors, shared_tail
from unsee_core.erase_pairs import led_pairs
from unsee_core.held import choose_strength, held_rows
from unsee_core.image_loss import encode_latents
from unsee_core.inversion import Budget, invert, templates_of
from unsee_core.job import AnchoredConcept, Concept, ConceptKind
from unsee_core.joint_solve import Recipe, States, led_states, solve
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext, Erasure, InForce, Method, MethodOption, MethodRun, Settings
from unsee_core.naming import Naming
from unsee_core.near_words import same_names
from unsee_core.neighbours import stand_in_of
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord, placeholder
from unsee_core.random_prefixes import prefixes_without, random_prefixes

INVERSION_STEPS = 80
HARDEN_TOKENS = 2
PREFIXES = 32
LED_BEHIND = 96  # prefixes, each before one of each word's prompts
STRICT_LAYERS = 1  # an attention behind a changed MLP would no longer find the name
BEYOND, BESIDE_BEYOND = 1.0, 84
HARDER: Mapping[str, Any] = {"retain_weight": 20.0, "most_strength": 1.3}  # of a recipe: more goes, less stays
RESISTING = ("random_prefixes", "beyond", "strict")  # options against attacks, with which an object is erased so
OF_A_STYLE: Mapping[str, Any] = {"retain_weight": 20.0, "most_strength": 1.8}  # led no further, it comes back


@dataclass(frozen=True)
class _Problem:
    """What is led and what is held for a concept, from the layer on that the solve begins with.

    Attributes:
        stand_in: takes the concept's place; "" for none.
        revived: what adapters in force put the concept in the place of, and which therefore is led away, too.
        prefixes: stand before prompts, which lose them; none: nothing does.
    """

    pipeline: Pipeline
    tail: EncoderTail
    recipe: Recipe
    anchor: str
    named: frozenset[str]
    stand_in: str
    revived: tuple[Concept, ...]
    held: list[States]
    prefixes: tuple[str, ...]

    def led(self, concept: Concept, words: Sequence[PseudoWord]) -> list[States]:
        """Return what is led, each concept with weight 1; with prefixes half of it each word's prompts behind them."""
        concepts = (concept, *self.revived)
        plain = [self._led([one], words, ()) for one in concepts]
        if not self.prefixes:
            return [*chain.from_iterable(plain)]
        alone = [[replace(one, name=word, synonyms=()) for word in one.words] for one in concepts]
        behind = [self._led(of_each_word, words, self.prefixes) for of_each_word in alone]
        for part in chain.from_iterable((*plain, *behind)):
            part.weights /= 2
        return [*chain.from_iterable((*plain, *behind))]

    def _led(self, concepts: Sequence[Concept], words: Sequence[PseudoWord], prefixes: Sequence[str]) -> list[States]:
        """Return the states of concepts that share a weight of 1, behind the prefixes where there are any."""
        pairs_of_each = led_pairs(
            [AnchoredConcept(one, self.anchor) for one in concepts],
            self.named,
            self.pipeline.vocabulary,
            beside=self.recipe.beside,
            in_looks=self.recipe.in_looks,
            prefixes=random_prefixes(self.pipeline, self.recipe.prefixes),
            stand_ins=[self.stand_in] * len(concepts),
        )
        layer, recipe = self.tail.first_layer, self.recipe
        parts = [
            part for pairs in pairs_of_each for part in led_states(self.pipeline, pairs, words, layer, recipe, prefixes)
        ]
        for part in parts:
            part.weights /= len(concepts)
        return parts

    def hold_as(self, tail: EncoderTail) -> None:
        """Let what is held become what other layers make of it, so that the solve mends what these ones moved."""
        for part in self.held:
            wanted, *known = tail.states(part.now.clone())
            part.wanted, part.known = wanted, tuple(known)


def run(context: EraseContext) -> MethodRun:
    """Erase by one solve, harden where asked, and choose the strength where none is given."""
    return erase(context, recipe_of(context.job.concept.kind, context.settings))


def recipe_of(kind: ConceptKind, settings: Settings) -> Recipe:
    """Return the recipe that the method's settings ask for.

    It is harder where attacks are to fail, and where nothing takes the concept's place: its prompts then draw anything.
    """
    prefixes = PREFIXES if settings.flag("random_prefixes") else 0
    recipe = Recipe(
        layers=settings.integer("layers"),
        rank=settings.rank,
        beside=0 if settings.flag("strict") else Recipe.beside,
        prefixes=prefixes,
        stand_in=settings.flag("stand_in"),
    )
    if kind == "style":
        recipe = replace(recipe, **OF_A_STYLE)
    elif kind != "object" or not recipe.stand_in or any(settings.flag(option) for option in RESISTING):
        recipe = replace(recipe, **HARDER)
    return replace(recipe, beyond=BEYOND, beside=BESIDE_BEYOND, stand_in=False) if settings.flag("beyond") else recipe


def erase(context: EraseContext, recipe: Recipe) -> MethodRun:
    """Run the method with a recipe of one's own."""
    settings = context.settings
    generator = torch.Generator().manual_seed(context.job.seed)
    words = list(context.words)
    concept = context.job.concept

    # 1. What the images add, where asked, and what is held.
    if tokens := settings.integer("image_words"):
        word = yield from _inverted(context, [], tokens, len(words), generator, "prepare")
        words, concept = [*words, word], _with_synonym(concept, word)
    sinks = [(yield from _sink(context, concept, words))] if settings.flag("strict") else []
    without_sink = context
    context = replace(context, in_force=(*context.in_force, *(InForce("", sink, ()) for sink in sinks)))
    problem = _problem(context, recipe, concept, words)
    if sinks:
        problem.hold_as(_tail_in_force(without_sink, problem.tail.first_layer))
    yield EraseProgress("prepare", 1, 1)

    # 2. Solve; let textual inversion attack, and solve again with what it found.
    factors, moved = yield from _solved(problem, concept, words)
    for _ in range(settings.integer("harden")):
        applied = factors.scaled(settings.strength or 1.0)
        word = yield from _inverted(context, [applied], HARDEN_TOKENS, len(words), generator, "harden")
        words, concept = [*words, word], _with_synonym(concept, word)
        factors, moved = yield from _solved(problem, concept, words)

    # 3. The strength.
    strength = settings.strength or choose_strength(
        context.pipeline, problem.tail, problem.held, moved, factors, recipe.most_strength
    )
    return Erasure(_together(*sinks, factors.scaled(strength)), strength, (problem.stand_in,))


def _sink(
    context: EraseContext, concept: Concept, words: Sequence[PseudoWord]
) -> Generator[EraseProgress, None, LoraFactors]:
    """Return the change that lets prompts forget what they said before the concept's name."""
    pipeline, tail = context.pipeline, EncoderTail(context.pipeline, 0)
    tail.load_state_dict(apply_factors(tail, context.with_in_force()), strict=False)
    named = same_names(pipeline, concept.words, words)
    return (yield from attention_sink(pipeline, tail, concept, words, named, context.job.retain_prompts))


def _together(*changes: LoraFactors) -> LoraFactors:
    """Return changes of different modules as one."""
    return LoraFactors({path: pair for change in changes for path, pair in change.pairs.items()})


def _problem(context: EraseContext, recipe: Recipe, concept: Concept, words: Sequence[PseudoWord]) -> _Problem:
    pipeline = context.pipeline
    tail = _tail_in_force(context, pipeline.encoder_layers - recipe.layers)
    named = same_names(pipeline, concept.words, words)
    revived = _revived(context, named)
    if revived:
        named |= same_names(pipeline, [word for one in revived for word in one.words])
    held = held_rows(
        pipeline, named, context.job.retain_prompts, recipe, tail.first_layer, is_changed=bool(context.in_force)
    )
    noun = stand_in_of(context) if recipe.stand_in else ""
    prefixes = prefixes_without(pipeline, named, LED_BEHIND) if context.settings.flag("strict") else ()
    return _Problem(pipeline, tail, recipe, context.job.anchor or "", named, noun, revived, held, prefixes)


def _revived(context: EraseContext, named: AbstractSet[str]) -> tuple[Concept, ...]:
    """Return the concepts in whose place adapters in force draw what is erased now."""
    naming = Naming(named, context.pipeline.vocabulary)
    replaced = (one for adapter in context.in_force for one in adapter.replaced)
    return tuple(one.concept for one in replaced if naming.first_in(one.anchor) is not None)


def _tail_in_force(context: EraseContext, first_layer: int) -> EncoderTail:
    """Return the encoder's layers from the first that changes on, as the adapters in force leave them."""
    pipeline = context.pipeline
    if not context.in_force:
        return shared_tail(pipeline, first_layer)
    tail = EncoderTail(pipeline, min([first_layer, *(adapter.factors.first_layer for adapter in context.in_force)]))
    tail.load_state_dict(apply_factors(tail, context.with_in_force()), strict=False)
    return tail


def _solved(
    problem: _Problem, concept: Concept, words: Sequence[PseudoWord]
) -> Generator[EraseProgress, None, tuple[LoraFactors, list[States]]]:
    """Return the change, and what is held as the change leaves it."""
    moved = [*map(replace, problem.held)]
    rows = [*problem.led(concept, words), *moved]
    return (yield from solve(problem.pipeline, problem.tail, rows, problem.recipe)), moved


def _inverted(
    context: EraseContext,
    factors: Sequence[LoraFactors],
    tokens: int,
    number: int,
    generator: torch.Generator,
    phase: Phase,
) -> Generator[EraseProgress, None, PseudoWord]:
    """Learn a pseudo-word from the images, through the encoder as the adapters in force and the factors leave it."""
    pipeline, kind = context.pipeline, context.job.concept.kind
    encoder = EncoderTail(pipeline, 0)
    changed = apply_factors(encoder, context.with_in_force(*factors))
    budget = Budget(tokens=tokens, steps=INVERSION_STEPS, restarts=1, patience=INVERSION_STEPS)

    def encode(hidden: Tensor) -> Tensor:
        output: Tensor = functional_call(encoder, changed, (hidden,))
        return output

    latents = encode_latents(pipeline, context.images)
    steps = invert(pipeline, latents, encode, budget, generator=generator, templates=templates_of(kind))
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return PseudoWord(placeholder(number), end.value.word.vectors)
        yield EraseProgress(phase, event.step, event.total, {"inversion": event.loss})


def _with_synonym(concept: Concept, word: PseudoWord) -> Concept:
    return replace(concept, synonyms=(*concept.synonyms, word.placeholder))


METHOD = Method(
    name="closed_form",
    description="Leads the concept's prompts to others that do not name it, by least squares in the last layers.",
    source="arXiv:2308.14761",
    needs_images=False,
    uses_anchor=True,
    options=(
        MethodOption(
            "strength",
            "float",
            None,
            "Factor on the change; if absent, the most at which held prompts stay: 0.7 to 1, of a style to 1.8, and to "
            "1.3 where nothing stands in or attacks are to fail.",
            0,
            2,
            above=True,
        ),
        MethodOption("rank", "int", 12, "Rank of every factor.", 1, 64),
        MethodOption(
            "layers", "int", 3, "How many of the text encoder's last layers change; with strict 1 unless given.", 1, 64
        ),
        MethodOption("image_words", "int", 0, "Tokens of a pseudo-word learned from images and erased too.", 0, 5),
        MethodOption("harden", "int", 0, "Rounds of textual inversion whose finds are erased too; needs images.", 0, 8),
        MethodOption(
            "stand_in",
            "bool",
            True,
            "A thing unlike an object takes its place where a prompt names nothing else; no: the word is left out.",
        ),
        MethodOption(
            "random_prefixes",
            "bool",
            False,
            "Leads and holds prompts behind random tokens too, as adversarial ones are.",
        ),
        MethodOption(
            "beyond",
            "bool",
            False,
            "Leads prompts that name nothing else beyond what they become, with nothing in its place; no anchor.",
        ),
        MethodOption(
            "strict",
            "bool",
            False,
            "What a prompt says before the name no longer counts, against adversarial prompts; not of a style.",
        ),
    ),
    run=run,
    uses_adapters=True,
)

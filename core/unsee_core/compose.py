"""Many erasures in one adapter: the concepts of stored adapters, by one joint solve and not by adding their factors.

What is added up disturbs what each part held still, and each part goes on as if the others were not there. Here every
concept's prompts are led, all at once, with weight 1 a concept, while the vocabulary without all of their names is
held; see ``unsee_core.joint_solve``. No prompt is led to one that names another of the concepts.

Ours. Never run on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unsee_core.answers import EraseProgress
from unsee_core.encoder import shared_tail
from unsee_core.erase_pairs import led_pairs
from unsee_core.errors import InvalidRequestError
from unsee_core.held import choose_strength, held_rows
from unsee_core.job import MAX_COMPOSED, AnchoredConcept, ComposeJob, EraseJob
from unsee_core.joint_solve import Recipe, led_states, solve
from unsee_core.layouts import MAX_RANK
from unsee_core.methods import EraseContext, Erasure, check_job, closed_form
from unsee_core.methods.base import MethodRun
from unsee_core.naming import Naming
from unsee_core.near_words import same_names, stand_in
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import is_placeholder
from unsee_core.vocabulary import Vocabulary

METHOD = "compose"
RECIPE = Recipe(  # of twenty objects, those in a look in a template not led were what came back; gentler was not tried
    retain_weight=20.0, beside=24, in_looks=3, most_strength=1.3
)
RANK_OF_EACH = 8
MOST_DRIFT = 0.8  # more than of one concept alone: the joint solve holds so well that there is strength to gain


@dataclass(frozen=True)
class ComposeContext:
    """All that composing works with.

    Attributes:
        pipeline: the resident model; read, never written.
        erasures: a context for each concept, without images.
    """

    pipeline: Pipeline
    job: ComposeJob
    erasures: tuple[EraseContext, ...]

    @property
    def concepts(self) -> tuple[AnchoredConcept, ...]:
        """What is erased."""
        return tuple(AnchoredConcept(e.job.concept, e.job.anchor or "") for e in self.erasures)

    @property
    def recipe(self) -> Recipe:
        """How the solve weighs: as for one concept, and rank and held prompts grow with how many there are."""
        rank = min(self.pipeline.encoder_width, MAX_RANK, RANK_OF_EACH * len(self.erasures))
        layers = min(RECIPE.layers, self.pipeline.encoder_layers)
        return replace(RECIPE, layers=layers, rank=rank, retain_weight=RECIPE.retain_weight * len(self.erasures))


def compose_context(
    pipeline: Pipeline, job: ComposeJob, found: Sequence[tuple[AnchoredConcept, ...]]
) -> ComposeContext:
    """Return the context of a job, after checking the concepts of its adapters.

    Args:
        pipeline: the resident model.
        job: checked by itself.
        found: the concepts of each of the job's adapters.

    Raises:
        InvalidRequestError: an adapter does not say its concept, or learned it from images; there are too many; a
            concept's anchor is erased, too, or differs between adapters; a prompt does not suit one of them.
    """
    by_concept: dict[AnchoredConcept, str] = {}
    for i, (ref, concepts) in enumerate(zip(job.adapters, found, strict=True)):
        _check_named(f"adapters[{i}]", ref, concepts)
        by_concept |= {concept: f"adapters[{i}]" for concept in concepts if concept not in by_concept}
    if len(by_concept) > MAX_COMPOSED:
        raise InvalidRequestError.of("adapters", f"got {len(by_concept)} concepts in all, allowed {MAX_COMPOSED}")
    for concept, path in by_concept.items():
        _check_anchor(path, concept, tuple(by_concept), pipeline.vocabulary)
    contexts = [_erasure(pipeline, job, concept) for concept in by_concept]
    return ComposeContext(pipeline, job, tuple(contexts))


def compose(context: ComposeContext) -> MethodRun:
    """Erase all concepts by one solve, and choose the strength where none is given."""
    pipeline, recipe, job = context.pipeline, context.recipe, context.job
    total = len(context.erasures) + 1

    # 1. What is held: all that no concept's name, nor another word for it, stands in.
    tail = shared_tail(pipeline, pipeline.encoder_layers - recipe.layers)
    named = same_names(pipeline, [word for one in context.concepts for word in one.concept.words])
    held = held_rows(pipeline, named, job.retain_prompts, recipe, tail.first_layer)
    yield EraseProgress("prepare", 1, total)

    # 2. What is led.
    led = []
    nouns = tuple(
        stand_in(pipeline, one.concept, named) if recipe.stand_in and not one.anchor else "" for one in context.concepts
    )
    pairs_of_all = led_pairs(
        context.concepts,
        named,
        pipeline.vocabulary,
        beside=recipe.beside,
        in_looks=recipe.in_looks,
        stand_ins=nouns,
    )
    for number, pairs in enumerate(pairs_of_all, start=2):
        led += led_states(pipeline, pairs, (), tail.first_layer, recipe)
        yield EraseProgress("prepare", number, total)

    # 3. Solve, and choose the strength.
    moved = [*map(replace, held)]
    factors = yield from solve(pipeline, tail, [*led, *moved], recipe)
    strength = job.strength or choose_strength(pipeline, tail, held, moved, factors, recipe.most_strength, MOST_DRIFT)
    return Erasure(factors.scaled(strength), strength, nouns)


def _check_named(path: str, ref: str, concepts: Sequence[AnchoredConcept]) -> None:
    if not concepts:
        allowed = "adapters that say their concept: this one was imported without any"
        raise InvalidRequestError.of(path, f"got {ref!r}, allowed {allowed}")
    if any(is_placeholder(word) for one in concepts for word in one.concept.words):
        allowed = "adapters of concepts in words: this one learned its words from images, and they are not kept"
        raise InvalidRequestError.of(path, f"got {ref!r}, allowed {allowed}")


def _check_anchor(path: str, one: AnchoredConcept, others: Sequence[AnchoredConcept], vocabulary: Vocabulary) -> None:
    """Refuse what would bring one concept back in another's place."""
    name, anchor = one.concept.name, one.anchor
    erased = frozenset(word.lower() for other in others for word in other.concept.words)
    if said := Naming(erased, vocabulary).first_in(anchor):
        message = f"got {name!r} with the anchor {anchor!r}, allowed anchors without {said!r}, which is erased too"
        raise InvalidRequestError.of(path, message)
    for other in others:
        if other.concept.name.lower() == name.lower() and other.anchor != anchor:
            message = f"got {name!r} with the anchors {other.anchor!r} and {anchor!r}, allowed one anchor a concept"
            raise InvalidRequestError.of(path, message)


def _erasure(pipeline: Pipeline, job: ComposeJob, one: AnchoredConcept) -> EraseContext:
    alone = EraseJob(
        one.concept, anchor=one.anchor or None, retain_prompts=job.retain_prompts, method=closed_form.METHOD.name
    )
    return EraseContext(pipeline, alone, (), check_job(alone, pipeline))

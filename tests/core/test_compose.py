"""Many erasures in one adapter: what goes, what stays, what is refused, and that it can be composed again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.core.test_engine import Caller
from unsee_core.adapter import AdapterMetadata, from_bytes, to_bytes
from unsee_core.answers import EraseCompleted, EraseProgress, Manifest, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.compose import ComposeContext, compose, compose_context
from unsee_core.compose_report import make_compose_report
from unsee_core.engine import Engine
from unsee_core.erase_pairs import led_pairs
from unsee_core.errors import AlreadyExistsError, CancelledError, InvalidRequestError, NotFoundError
from unsee_core.job import AdapterRef, AnchoredConcept, ComposeJob, Concept, EraseJob, GenerateJob, Guard
from unsee_core.lora import LoraFactors
from unsee_core.manifests import AdapterQuery, manifest_from_json, manifest_to_json
from unsee_core.near_words import stand_in, vocabulary_names
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore
from unsee_core.vocabulary import Vocabulary

CAT, DOG = AnchoredConcept(Concept("cat", ("kitten",))), AnchoredConcept(Concept("dog"), "owl")
FISH = AnchoredConcept(Concept("fish"))
JOB = ComposeJob(("no-cat", "no-dog"))


def finish(steps):
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value, progress


def composed(pipeline: Pipeline, *found: AnchoredConcept, **changes: object) -> tuple[ComposeContext, LoraFactors]:
    job = replace(ComposeJob(tuple(f"no-{i}" for i in range(len(found)))), **changes)
    context = compose_context(pipeline, job, [(one,) for one in found])
    return context, finish(compose(context))[0].factors


def report_of(context: ComposeContext, factors: LoraFactors) -> Report:
    return finish(make_compose_report(context, factors))[0]


@pytest.fixture
def engine(tiny_pipeline: Pipeline, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose store holds no-cat, and no-dog with an anchor."""
    running = Engine(tiny_pipeline, AdapterStore(str(tmp_path)))
    for name, anchor in (("cat", None), ("dog", "owl")):
        erase = EraseJob(Concept(name), method="closed_form", anchor=anchor, adapter_name=f"no-{name}", strength=1.0)
        assert Caller(running, erase).wait().error is None
    yield running
    running.close()


def done(engine: Engine, job: ComposeJob) -> Manifest:
    caller = Caller(engine, job).wait()
    assert caller.error is None
    completed = caller.events[-1]
    assert isinstance(completed, EraseCompleted)
    return completed.manifest


def test_all_concepts_are_gone_and_the_rest_stays(pipeline: Pipeline) -> None:
    context, factors = composed(pipeline, *(AnchoredConcept(Concept(name)) for name in ("cat", "rose", "car")))
    report = report_of(context, factors)
    assert report.concept_ratios.keys() == {"cat", "rose", "car"}
    assert max(report.concept_ratios.values()) < 0.55
    assert report.erase_ratio == pytest.approx(sum(report.concept_ratios.values()) / 3)
    assert report.worst_erase_ratio >= max(report.concept_ratios.values())
    assert report.retain_drift.p50 < 0.2
    assert report.empty_drift < 0.1
    assert not {"cat", "rose", "car"} & {one.name for one in report.worst_neighbours}


def test_a_change_of_strength_zero_leaves_everything(tiny_pipeline: Pipeline) -> None:
    context, factors = composed(tiny_pipeline, CAT, DOG)
    report = report_of(context, factors.scaled(0.0))
    assert list(report.concept_ratios.values()) == pytest.approx([1.0, 1.0], abs=1e-4)
    assert report.concept_drift.max == report.retain_drift.max == report.empty_drift == 0.0


def test_no_prompt_is_led_to_one_that_names_another_concept() -> None:
    vocabulary = Vocabulary(nouns=("dog", "cat", "fish", "owl"), looks=("sepia", "ink"))
    concepts = (CAT, AnchoredConcept(Concept("sepia", kind="style")), AnchoredConcept(Concept("fish"), "owl"))
    named = frozenset({"cat", "kitten", "sepia", "fish", "house"})
    cat, sepia, fish = (dict(pairs) for pairs in led_pairs(concepts, named, vocabulary, beside=3))
    becomes = [text for pairs in (cat, sepia, fish) for text in pairs.values()]
    assert not any(word in text for word in named for text in becomes)
    assert cat["a photo of a cat"] == "a photo"
    assert sepia["a dog in sepia style"] == "a dog"
    assert fish["a photo of a fish"] == "a photo of an owl"
    assert "a house and a fish" not in fish


def test_what_stands_in_for_a_concept_is_none_of_the_others(pipeline: Pipeline) -> None:
    cat = AnchoredConcept(Concept("cat"))
    alone = stand_in(pipeline, cat.concept, {"cat", "dog"})
    context, _ = composed(pipeline, cat, DOG, AnchoredConcept(Concept(alone)))
    first, dog, third = finish(compose(context))[0].stand_ins
    assert dog == ""  # it has an anchor
    assert {first, third} < set(pipeline.vocabulary.nouns) - {"cat", "dog", alone}


def test_a_composed_adapter_says_what_is_drawn_in_each_concepts_place(tiny_pipeline: Pipeline) -> None:
    base = tiny_pipeline.base_model
    settings = {"anchor 1": "owl", "stands_in 0": "fish"}
    concepts = (Concept("cat"), Concept("dog"), Concept("sepia", kind="style"))
    metadata = AdapterMetadata(None, "compose", 1.0, 8, 0, 0, settings, base, {}, concepts)
    assert metadata.replaced == (AnchoredConcept(concepts[0], "fish"), AnchoredConcept(concepts[1], "owl"))


def test_every_concept_stands_in_every_look_in_as_many_templates_as_are_asked_for() -> None:
    vocabulary = Vocabulary(nouns=("dog",), looks=("sepia", "ink"))
    cat = AnchoredConcept(Concept("cat"))
    ((*one,),) = led_pairs([cat], frozenset({"cat"}), vocabulary, beside=0)
    ((*three,),) = led_pairs([cat], frozenset({"cat"}), vocabulary, beside=0, in_looks=3)
    in_sepia = [("sepia of a cat", "sepia"), ("a cat in sepia style", "sepia style"), ("a cat, sepia", "sepia")]
    assert [pair for pair in one if "sepia" in pair[0]] == in_sepia[:1]
    assert [pair for pair in three if "sepia" in pair[0]] == in_sepia
    assert len(three) == len(one) + 4


def test_rank_and_what_is_held_grow_with_the_concepts(tiny_pipeline: Pipeline) -> None:
    many = [AnchoredConcept(Concept(name)) for name in ("cat", "dog", "fish", "bee", "owl")]
    two, five = (composed(tiny_pipeline, *many[:n]) for n in (2, 5))
    assert two[1].rank == 16
    assert five[1].rank == tiny_pipeline.encoder_width == 32
    assert five[0].recipe.retain_weight == 2.5 * two[0].recipe.retain_weight == 100
    assert two[0].recipe.most_strength == 1.3


def test_the_strength_is_the_one_given_or_chosen(tiny_pipeline: Pipeline) -> None:
    _, one = composed(tiny_pipeline, CAT, DOG, strength=1.0)
    _, half = composed(tiny_pipeline, CAT, DOG, strength=0.5)
    for path, pair in one.pairs.items():
        torch.testing.assert_close(half.pairs[path].b, 0.5 * pair.b)
        assert torch.equal(half.pairs[path].a, pair.a)


def test_retain_prompts_move_less(tiny_pipeline: Pipeline) -> None:
    prompt, moved = "a lemon beside a cat", []
    for retain in ((), (prompt,) * 32):
        context, factors = composed(tiny_pipeline, CAT, DOG, strength=1.0, retain_prompts=retain)
        before, after = ChangedEncoder(context.erasures[0], factors)([prompt])
        moved.append(float((after - before).norm()))
    assert moved[1] < 0.8 * moved[0]


def test_the_whole_vocabulary_can_be_erased(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = frozenset(name.lower() for name in vocabulary_names(tiny_pipeline))
    monkeypatch.setattr("unsee_core.compose_report.names_of", lambda _: everything)
    report = report_of(*composed(tiny_pipeline, CAT, DOG))
    assert report.retain_drift.prompts == len(tiny_pipeline.vocabulary.scenes) + 1


@pytest.mark.parametrize(
    ("found", "at_fault"),
    [
        ([(CAT,), ()], r"adapters\[1\]: got 'no-dog', allowed adapters that say their concept"),
        ([(AnchoredConcept(Concept("<images-1>", ("<images-2>",))),), (DOG,)], r"adapters\[0\]: .* from images"),
        (
            [(CAT,), (AnchoredConcept(Concept("dog"), "a big cat"),)],
            r"adapters\[1\]: .* without 'cat', which is erased",
        ),
        ([(DOG,), (AnchoredConcept(Concept("Dog"), "fox"),)], r"adapters\[\d\]: .* allowed one anchor a concept"),
        ([tuple(AnchoredConcept(Concept(f"c{i}")) for i in range(64)), (CAT,)], r"adapters: got 65 concepts in all"),
    ],
)
def test_adapters_that_cannot_be_composed_are_refused_by_field(
    tiny_pipeline: Pipeline, found: list[tuple[AnchoredConcept, ...]], at_fault: str
) -> None:
    with pytest.raises(InvalidRequestError, match=at_fault):
        compose_context(tiny_pipeline, JOB, found)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"adapters": ("a",)}, "adapters"),
        ({"adapters": tuple(f"a{i}" for i in range(65))}, "adapters"),
        ({"adapters": ("a", "a")}, r"adapters\[1\]"),
        ({"adapters": ("a", "../b")}, r"adapters\[1\]"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 2.1}, "strength"),
        ({"retain_prompts": ("",)}, r"retain_prompts\[0\]"),
        ({"adapter_name": "No"}, "adapter_name"),
        ({"labels": {"": ""}}, "labels"),
    ],
)
def test_a_job_checks_itself(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: "):
        replace(JOB, **changes)


def test_composing_tells_its_steps_and_stores_an_adapter_of_all_concepts(engine: Engine) -> None:
    caller = Caller(engine, replace(JOB, labels={"team": "a"})).wait()
    assert caller.error is None
    told = [(e.phase, e.step, e.total) for e in caller.events if isinstance(e, EraseProgress)]
    assert told == [(p, i, 3) for p in ("prepare", "train", "report") for i in (1, 2, 3)]
    manifest = caller.events[-1].manifest
    assert (manifest.method, manifest.concept, manifest.labels) == ("compose", None, {"team": "a"})
    assert manifest.concepts == (Concept("cat"), Concept("dog"))
    assert manifest.name == f"composed-{manifest.digest[7:15]}"
    assert manifest.report.phase_seconds.keys() == {"prepare", "train", "report"}
    assert engine.library.manifest(manifest.digest) == manifest
    assert engine.library.erased_by(manifest.name)[1] == (AnchoredConcept(Concept("cat")), DOG)


def test_a_composed_adapter_is_listed_gated_and_guarded_by_each_of_its_concepts(engine: Engine) -> None:
    manifest = done(engine, JOB)
    for concept in ("cat", "DOG"):
        assert manifest in engine.library.list(AdapterQuery(concept=concept)).manifests
    ref = AdapterRef(manifest.name, gate=True)
    for prompt, acts in (("two dogs", True), ("a cat", True), ("a tree", False)):
        end = Caller(engine, GenerateJob(prompt, adapters=(ref,), steps=1, guard=Guard(1.0))).wait().events[-1]
        assert end.adapters[0].acts_on_prompt is acts
        assert end.guard.words == ("cat", "dog")


def test_a_composed_adapter_can_be_composed_again_with_its_anchors(engine: Engine) -> None:
    done(engine, replace(JOB, adapter_name="both"))
    erase = EraseJob(Concept("fish"), method="closed_form", adapter_name="no-fish", strength=1.0)
    assert Caller(engine, erase).wait().error is None
    done(engine, ComposeJob(("both", "no-fish"), adapter_name="three"))
    assert engine.library.erased_by("three")[1] == (
        AnchoredConcept(Concept("cat")),
        DOG,
        AnchoredConcept(Concept("fish")),
    )


def test_the_same_adapters_compose_to_the_same_bytes(engine: Engine) -> None:
    assert done(engine, JOB).digest == done(engine, replace(JOB, adapter_name="again")).digest


def test_what_the_store_does_not_allow_is_refused_at_once(engine: Engine) -> None:
    for changes, error in (
        ({"adapters": ("no-cat", "unknown")}, NotFoundError),
        ({"adapter_name": "no-cat"}, AlreadyExistsError),
        ({"adapters": ("no-cat", engine.library.manifest("no-cat").digest)}, InvalidRequestError),
    ):
        with pytest.raises(error):
            Caller(engine, replace(JOB, **changes))
    assert done(engine, replace(JOB, adapter_name="no-cat", replace=True)).concepts


def test_a_composition_is_cancelled_within_a_step(engine: Engine) -> None:
    caller = Caller(engine, replace(JOB, adapter_name="never"))
    caller.ticket.cancel()
    assert isinstance(caller.wait().error, CancelledError)
    with pytest.raises(NotFoundError):
        engine.library.manifest("never")


def test_metadata_keep_all_concepts_and_other_adapters_keep_their_bytes(tiny_pipeline: Pipeline) -> None:
    _, factors = composed(tiny_pipeline, CAT, DOG)
    base = tiny_pipeline.base_model
    metadata = AdapterMetadata(
        None, "compose", 1.0, 16, 0, 0, {"anchor 1": "owl"}, base, {}, (CAT.concept, DOG.concept)
    )
    assert from_bytes(to_bytes(factors, metadata))[1] == metadata
    assert metadata.erased == (CAT, DOG)
    assert b"concepts" not in to_bytes(factors, replace(metadata, concepts=(), concept=CAT.concept))
    with pytest.raises(InvalidRequestError, match="concepts: got 2 beside a concept"):
        replace(metadata, concept=CAT.concept)


def test_a_manifest_without_concepts_is_read_as_before(engine: Engine) -> None:
    manifest = done(engine, JOB)
    assert manifest_from_json(manifest.name, manifest_to_json(manifest)) == replace(manifest, base_mismatch=False)
    old = manifest_to_json(engine.library.manifest("no-cat")).replace(b'"concepts": [],\n', b"")
    assert b"concepts" not in old
    assert manifest_from_json("no-cat", old).erased == (Concept("cat"),)

"""An audit from end to end on the tiny model, and what its figures mean."""

import hashlib
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image

from tests.core.audits import CAT, SMALL, context_of, finish, no_change
from tests.core.factors import random_factors
from unsee_core.audit.answers import NAME, AuditPicture, AuditProgress, AuditRow, Outcome
from unsee_core.audit.job import ATTACKS, AuditBudget, AuditJob
from unsee_core.audit.run import audit, control_concept
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept

ROWS = (
    "name", "wordings", "reconstruction", "inverted_latents", "searched_noise", "adversarial_prompt",
    "learned_tokens_1", "learned_tokens_2",
)  # fmt: skip


@pytest.fixture(scope="module")
def audited(tiny_pipeline):
    return finish(context_of(tiny_pipeline, random_factors(tiny_pipeline, 1, 2), samples=2))


@pytest.fixture(scope="module")
def unchanged(tiny_pipeline):
    return finish(context_of(tiny_pipeline, no_change(tiny_pipeline)))


def test_every_attack_has_a_row_after_the_concepts_own_name(audited):
    report, events = audited
    assert tuple(row.attack for row in report.rows) == ROWS
    assert [event for event in events if isinstance(event, AuditRow)] == list(report.rows)


def test_every_side_is_searched_drawn_and_judged_in_each_row(audited):
    report, events = audited
    for number, row in enumerate(report.rows):
        steps = [e for e in events if isinstance(e, AuditProgress) and e.attack == row.attack and e.stage != "prepare"]
        for side in ("unedited", "adapter", "control"):
            assert {e.stage for e in steps if e.side == side} == {"search", "draw", "judge"}
        assert {(e.row, e.rows) for e in steps} == {(number, len(ROWS))}
        assert all(1 <= e.step <= e.total for e in steps)


def test_as_many_pictures_as_asked_are_handed_out_of_each_side(audited):
    report, events = audited
    pictures = [event for event in events if isinstance(event, AuditPicture)]
    assert [(p.attack, p.side, p.index) for p in pictures] == [
        (attack, side, i) for attack in ROWS for side in ("unedited", "adapter", "control") for i in (0, 1)
    ]
    assert Image.open(BytesIO(pictures[0].data)).size == (16, 16)
    shown = [p.shows_concept for p in pictures if p.score >= report.threshold]
    assert all(shown)


def test_the_report_says_what_was_done(audited, tiny_pipeline):
    report, _ = audited
    assert (report.adapter, report.concept, report.budget, report.seed) == ("attacked", CAT, SMALL, 3)
    assert (report.judged_by, report.given_images, report.guidance_scale) == ("model", 0, 4.0)
    assert report.model_digest == tiny_pipeline.digests.model
    assert report.control_word.lower() not in CAT.words
    assert all(row.adapter.pictures == SMALL.pictures for row in report.rows)


def test_an_adapter_that_changes_nothing_is_attacked_as_the_unedited_model_is(unchanged):
    """Budgets and draws are the same on both sides."""
    for row in unchanged[0].rows:
        assert row.adapter == row.unedited
        assert row.control != row.unedited


def test_a_change_of_the_encoder_is_seen_by_every_attack_but_not_on_the_unedited_side(unchanged, audited):
    for changed, plain in zip(audited[0].rows, unchanged[0].rows, strict=True):
        assert changed.unedited == plain.unedited
        assert changed.adapter != plain.adapter


def test_the_same_job_finds_the_same_and_another_seed_something_else(tiny_pipeline):
    factors, attacks = random_factors(tiny_pipeline, 1, 2), ("adversarial_prompt",)
    contexts = [context_of(tiny_pipeline, factors, attacks=attacks, seed=seed) for seed in (3, 3, 4)]
    first, again, other = ([(r.unedited, r.adapter, r.control) for r in finish(c)[0].rows] for c in contexts)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_judge_decides_what_is_shown_and_the_models_own_view_stands_beside_it(tiny_pipeline):
    seen = []

    def judge(images):
        seen.append(len(images))
        return [True, False]

    context = context_of(
        tiny_pipeline, no_change(tiny_pipeline), attacks=("reconstruction",), judge=judge, judged_by="a judge"
    )
    report, events = finish(context)
    assert seen == [2] * 6
    assert report.judged_by == "a judge"
    assert all(outcome.shown == 1 for row in report.rows for outcome in (row.unedited, row.adapter, row.control))
    assert [e.shows_concept for e in events if isinstance(e, AuditPicture)][:2] == [True, False]
    by_model, _ = finish(replace(context, judge=None))
    pairs = zip(report.rows, by_model.rows, strict=True)
    assert all(judged.adapter.shown_by_model == plain.adapter.shown for judged, plain in pairs)


def test_given_pictures_are_what_distance_and_learned_tokens_aim_at(tiny_pipeline):
    changes = {"attacks": ("learned_tokens",), "factors": no_change(tiny_pipeline)}
    drawn, _ = finish(context_of(tiny_pipeline, **changes))
    given, _ = finish(context_of(tiny_pipeline, **changes, images=(Image.new("RGB", (16, 16), "red"),)))
    assert (drawn.given_images, given.given_images) == (0, 1)
    assert drawn.rows[0].unedited.score == given.rows[0].unedited.score
    assert drawn.rows[0].unedited.distance != given.rows[0].unedited.distance
    assert drawn.rows[1].unedited.loss != given.rows[1].unedited.loss


def test_closing_stops_at_once_and_the_model_and_the_global_generator_stay(tiny_pipeline):
    modules = (tiny_pipeline.text_encoder, tiny_pipeline.unet, tiny_pipeline.vae)

    def digest() -> str:
        values = (value for module in modules for value in module.state_dict().values())
        return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()

    before = digest()
    attacks = ("searched_noise", "adversarial_prompt", "learned_tokens")
    steps = audit(context_of(tiny_pipeline, random_factors(tiny_pipeline, 1, 2), attacks=attacks))
    next(steps)
    state = torch.get_rng_state()
    while not isinstance(event := next(steps), AuditProgress) or event.attack != "learned_tokens_2":
        pass
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)
    assert digest() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("unedited", "adapter", "counts", "recovered"),
    [(18, 10, True, True), (17, 10, False, True), (18, 9, True, False)],
)
def test_a_row_counts_from_nine_tenths_and_recovers_from_half(unedited, adapter, counts, recovered):
    sides = [Outcome(20, shown, 0, 0.0, 0.0) for shown in (unedited, adapter, 0)]
    row = AuditRow(NAME, *sides, seconds=1.0)
    assert (row.counts, row.recovered) == (counts, recovered)


def test_what_brings_the_concept_back_is_named_only_where_the_row_counts(audited):
    report, _ = audited
    full, none = Outcome(20, 20, 0, 0.0, 0.0), Outcome(20, 0, 0, 0.0, 0.0)
    sides = {"a": (full, full), "b": (none, full), "c": (full, none)}
    rows = tuple(AuditRow(name, *both, none, 1.0) for name, both in sides.items())
    assert replace(report, rows=rows).recovered_by == ("a",)


@pytest.mark.parametrize("kind", ["object", "style", "person", "brand"])
def test_the_control_is_another_concept_of_its_kind_and_no_name_of_this_one(pipeline, kind):
    concept = Concept("sepia" if kind == "style" else "dog", kind=kind)
    words = {control_concept(pipeline, concept, seed).name for seed in range(20)}
    assert len(words) > 2
    assert not words & {"dog", "puppy", "hound", "sepia", "vintage brown"}
    assert control_concept(pipeline, concept, 1) == control_concept(pipeline, concept, 1)


@pytest.mark.parametrize("kind", ["style", "person", "brand"])
def test_concepts_of_every_kind_are_attacked(tiny_pipeline, kind):
    concept = Concept("sepia", ("old brown",), kind)
    attacks = ("wordings", "learned_tokens")
    report, _ = finish(context_of(tiny_pipeline, no_change(tiny_pipeline), concept=concept, attacks=attacks))
    assert [row.attack for row in report.rows] == ["name", "wordings", "learned_tokens_1", "learned_tokens_2"]
    assert "sepia" in report.rows[0].adapter.detail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "../x"}, "adapter: got '../x'"),
        ({"images": (b"x",) * 17}, "images: got 17, allowed up to 16"),
        ({"concept": Concept("")}, "concept.name: got none"),
        ({"attacks": ("guess",)}, r"attacks\[0\]: got 'guess', allowed wordings"),
        ({"attacks": ("wordings", "wordings")}, r"attacks\[1\]: got 'wordings' a second time"),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan"),
        ({"samples": 65}, "samples: got 65, allowed 0-64"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(changes, message):
    with pytest.raises(InvalidRequestError, match=message):
        AuditJob(**{"adapter": "a"} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inversion_tokens": (1, 17)}, r"inversion_tokens\[1\]: got 17, allowed 1-16"),
        ({"inversion_tokens": (2, 2)}, r"inversion_tokens\[1\]: got 2 again"),
        ({"inversion_steps": 0}, "inversion_steps: got 0, allowed 1-5000"),
        ({"inversion_batch": 65}, "inversion_batch: got 65"),
        ({"prompt_tokens": 33}, "prompt_tokens: got 33"),
        ({"prompt_steps": 5001}, "prompt_steps: got 5001"),
        ({"noise_steps": 0}, "noise_steps: got 0"),
        ({"restarts": 17}, "restarts: got 17"),
        ({"pictures": 0}, "pictures: got 0"),
        ({"drawing_steps": 3}, "drawing_steps: got 3, allowed 4-200"),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(changes, message):
    with pytest.raises(InvalidRequestError, match=message):
        AuditBudget(**changes)


def test_only_the_attacks_that_are_asked_for_run_in_their_own_order(tiny_pipeline):
    asked = ("searched_noise", "wordings")
    report, _ = finish(context_of(tiny_pipeline, no_change(tiny_pipeline), attacks=asked, samples=0))
    assert [row.attack for row in report.rows] == ["name", "wordings", "searched_noise"]
    assert set(asked) < set(ATTACKS)

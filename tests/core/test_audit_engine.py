"""Audits through the engine: admitted, run beside other work, cancelled, and kept with the adapter."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.core.adapters import METADATA
from tests.core.audits import CAT, SMALL
from tests.core.factors import random_factors
from tests.core.test_engine import Caller
from unsee_core.answers import GenerateCompleted, Manifest, Queued
from unsee_core.audit.answers import AuditCompleted, AuditPicture, AuditProgress, AuditReport, AuditRow, Outcome
from unsee_core.audit.job import AuditBudget, AuditJob
from unsee_core.engine import Engine
from unsee_core.errors import CancelledError, InvalidRequestError, NotFoundError
from unsee_core.job import Concept, GenerateJob, Limits
from unsee_core.library import KEPT_AUDITS
from unsee_core.manifests import manifest_from_json, manifest_to_json
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore

JOB = AuditJob("no-cat", attacks=("inverted_latents", "learned_tokens"), budget=SMALL, samples=1)


@pytest.fixture
def engine(tiny_pipeline: Pipeline, tmp_path: Path) -> Iterator[Engine]:
    running = Engine(tiny_pipeline, AdapterStore(str(tmp_path)), limits=Limits(max_steps=50, max_batch=8))
    stored(running, "no-cat", CAT)
    yield running
    running.close()


def stored(engine: Engine, name: str, concept: Concept | None, **fields: object) -> Manifest:
    factors = random_factors(engine.pipeline, 1, 2)
    metadata = replace(METADATA, concept=concept, base_model=engine.pipeline.base_model, **fields)
    return engine.library.add(factors, metadata, name=name, replace=True, labels={})


def test_an_audit_is_queued_attacks_and_ends_with_a_report_that_the_manifest_keeps(engine: Engine) -> None:
    caller = Caller(engine, JOB).wait()
    assert caller.error is None
    assert isinstance(caller.events[0], Queued)
    (completed,) = caller.of(AuditCompleted)
    assert caller.events[-1] == completed
    assert completed.is_kept
    assert tuple(caller.of(AuditRow)) == completed.report.rows
    assert len(caller.of(AuditPicture)) == 4 * 3
    assert engine.library.manifest("no-cat").audits == (completed.report,)
    assert completed.report.concept == CAT
    assert completed.report.adapter == "no-cat"


def test_it_runs_beside_other_work(engine: Engine) -> None:
    audit = Caller(engine, JOB)
    audit.reached.acquire()
    drawing = Caller(engine, GenerateJob("a dog", steps=2, guidance_scale=1.0)).wait()
    assert drawing.of(GenerateCompleted)
    assert not audit.of(AuditCompleted)
    assert audit.wait().of(AuditCompleted)


def test_a_cancelled_audit_ends_within_a_step_and_keeps_nothing(engine: Engine) -> None:
    caller = Caller(engine, JOB)
    for _ in range(5):
        assert caller.reached.acquire(timeout=60)
    caller.ticket.cancel()
    assert isinstance(caller.wait().error, CancelledError)
    assert not caller.of(AuditCompleted)
    assert engine.library.manifest("no-cat").audits == ()


def test_an_audit_of_an_adapter_that_is_gone_at_the_end_says_so(engine: Engine) -> None:
    caller = Caller(engine, JOB)
    caller.reached.acquire()
    engine.library.delete("no-cat")
    (completed,) = caller.wait().of(AuditCompleted)
    assert not completed.is_kept
    assert completed.report.rows


def test_given_pictures_and_a_concept_of_the_requests_own(engine: Engine) -> None:
    picture = BytesIO()
    Image.new("RGB", (20, 20), "green").save(picture, "PNG")
    job = AuditJob("no-cat", (picture.getvalue(),), Concept("kitty"), ("reconstruction",), SMALL)
    (completed,) = Caller(engine, job).wait().of(AuditCompleted)
    assert (completed.report.given_images, completed.report.concept) == (1, Concept("kitty"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (b"no picture",)}, r"images\[0\]: got 10 bytes"),
        ({"budget": AuditBudget(drawing_steps=51)}, "budget.drawing_steps: got 51, allowed 4-50"),
        ({"concept": Concept("x" * 75)}, "concept.name: got 8[0-9] tokens"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(engine: Engine, changes: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Caller(engine, replace(JOB, **changes))


@pytest.mark.parametrize(
    ("concept", "concepts", "says"),
    [
        (None, (), "says 0"),
        (Concept("<images-1>", ("<images-2>",)), (), "says 0"),
        (None, (CAT, Concept("dog")), "says 2"),
    ],
)
def test_an_adapter_that_does_not_say_one_concept_needs_one_in_the_request(
    engine: Engine, concept: Concept | None, concepts: tuple[Concept, ...], says: str
) -> None:
    stored(engine, "other", concept, concepts=concepts)
    with pytest.raises(InvalidRequestError, match=f"concept: got none, allowed one with a name: 'other' {says}"):
        Caller(engine, replace(JOB, adapter="other"))
    named = Caller(engine, replace(JOB, adapter="other", concept=CAT, attacks=("inverted_latents",)))
    assert named.wait().of(AuditCompleted)


def test_an_unknown_adapter_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFoundError):
        Caller(engine, replace(JOB, adapter="nothing"))


def test_steps_are_short_enough_to_stand_between_others(engine: Engine) -> None:
    """No search is one long step: each side of each attack is told of more than once."""
    caller = Caller(engine, replace(JOB, attacks=())).wait()
    steps = caller.of(AuditProgress)
    slow = {"wordings", "inverted_latents", "searched_noise", "adversarial_prompt", "learned_tokens_2"}
    for attack in slow:
        assert sum(e.attack == attack and e.stage == "search" and e.side == "adapter" for e in steps) > 1


def report(manifest: Manifest, seed: int) -> AuditReport:
    side = Outcome(20, 10, 9, 0.5, 0.25, None, "a prompt")
    return AuditReport(
        adapter=manifest.name,
        digest=manifest.digest,
        concept=CAT,
        control_word="dog",
        threshold=0.1,
        judged_by="model",
        given_images=3,
        budget=SMALL,
        guidance_scale=4.0,
        seed=seed,
        rows=(AuditRow("name", side, replace(side, loss=0.5), side, 1.5),),
        seconds=2.5,
        model_digest="sha256:m",
        create_time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    )


def test_the_newest_reports_are_kept_and_come_back_as_they_were(engine: Engine) -> None:
    manifest = engine.library.manifest("no-cat")
    reports = [report(manifest, seed) for seed in range(KEPT_AUDITS + 2)]
    for one in reports:
        engine.library.keep_audit(one)
    kept = engine.library.manifest("no-cat")
    assert kept.audits == tuple(reports[2:])
    assert manifest_from_json("no-cat", manifest_to_json(kept)).audits == kept.audits
    assert replace(kept, audits=()) == manifest


def test_a_report_is_not_kept_with_another_adapter_of_the_same_name(engine: Engine) -> None:
    old = engine.library.manifest("no-cat")
    stored(engine, "no-cat", Concept("dog"))
    with pytest.raises(NotFoundError, match="'no-cat' with the digest sha256"):
        engine.library.keep_audit(report(old, 1))
    assert engine.library.manifest("no-cat").audits == ()


def test_a_manifest_from_before_audits_has_none(engine: Engine) -> None:
    text = manifest_to_json(engine.library.manifest("no-cat")).replace(b'"audits"', b'"unknown"')
    assert manifest_from_json("no-cat", text).audits == ()

"""The engine: admission, interleaving, cancelling, and what it leaves untouched."""

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from unsee_core import engine as engine_module
from unsee_core.adapter import from_bytes
from unsee_core.answers import EraseCompleted, EraseProgress, GenerateCompleted, GenerateProgress, ImageReady, Queued
from unsee_core.denoise import denoise_step
from unsee_core.engine import Engine
from unsee_core.errors import (
    AlreadyExistsError,
    CancelledError,
    InvalidRequestError,
    NotFoundError,
    OutOfMemoryError,
    QueueFullError,
    ShuttingDownError,
)
from unsee_core.job import AdapterRef, Concept, EraseJob, GenerateJob, Limits
from unsee_core.lanes import Event
from unsee_core.methods import closed_form
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore

IMAGES = tuple(p.read_bytes() for p in sorted(Path("bench/images/cat").glob("*.png")))
ERASE = EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=3)
DRAW = GenerateJob("a dog", steps=3)


class Caller:
    """Submits a job and remembers what comes back."""

    def __init__(self, engine: Engine, job: EraseJob | GenerateJob) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self.reached = threading.Semaphore(0)
        self._ended = threading.Event()
        self.ticket = engine.submit(job, self._on_event, self._on_end)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self.reached.release()

    def _on_end(self, error: Exception | None) -> None:
        assert not self._ended.is_set(), "ended twice"
        self.error = error
        self._ended.set()

    def wait(self) -> "Caller":
        assert self._ended.wait(600), "did not end"
        return self

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def engine(pipeline: Pipeline, tmp_path: Path) -> Iterator[Engine]:
    running = Engine(pipeline, AdapterStore(str(tmp_path)))
    yield running
    running.close()


def weights_hash(pipeline: Pipeline) -> str:
    total = hashlib.sha256()
    for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        for name, tensor in sorted(module.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def test_an_erasure_reports_every_phase_and_ends_with_a_stored_adapter(engine: Engine) -> None:
    caller = Caller(engine, ERASE).wait()
    assert caller.error is None
    assert isinstance(caller.events[0], Queued)
    progress = [e for e in caller.events if isinstance(e, EraseProgress)]
    assert {e.phase for e in progress} == {"prepare", "train", "report"}
    assert [e.step for e in progress if e.phase == "train"] == [1, 2, 3]
    (completed,) = caller.of(EraseCompleted)
    assert isinstance(completed, EraseCompleted)
    manifest = engine.library.manifest(completed.manifest.name)
    assert manifest == completed.manifest
    assert manifest.name.startswith("cat-")
    assert manifest.report is not None
    assert manifest.report.phase_seconds["train"] > 0


@pytest.mark.parametrize(
    ("clear", "concept", "name", "told"),
    [
        (0.97, Concept("cat"), "cat-", "taken for 'cat'"),
        (0.0, Concept("<images-1>", ("<images-2>",)), "images-1-", "nothing that the model's vocabulary clearly names"),
    ],
)
def test_an_erasure_from_images_alone_learns_and_names_what_they_show(
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clear: float,
    concept: Concept,
    name: str,
    told: str,
) -> None:
    monkeypatch.setattr("unsee_core.methods.from_images.STEPS", 2)
    monkeypatch.setattr("unsee_core.methods.from_images.CLEAR", clear)
    engine = Engine(pipeline, AdapterStore(str(tmp_path)))
    caller = Caller(engine, EraseJob(Concept(""), images=IMAGES, method="few_shot_lora", steps=2)).wait()
    engine.close()
    assert caller.error is None
    (completed,) = caller.of(EraseCompleted)
    assert isinstance(completed, EraseCompleted)
    assert completed.manifest.concept == concept
    assert completed.manifest.name.startswith(name)
    assert completed.manifest.report is not None
    assert told in completed.manifest.report.warnings[0]


def test_what_a_method_does_after_its_last_step_counts_as_its_own_and_not_as_the_reports(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_late(*_: object) -> float:
        time.sleep(2)
        return 1.0

    monkeypatch.setattr(closed_form, "choose_strength", choose_late)
    (completed,) = Caller(engine, EraseJob(Concept("cat"), method="closed_form")).wait().of(EraseCompleted)
    seconds = completed.manifest.report.phase_seconds
    assert seconds["train"] > 2
    assert seconds["report"] < seconds["train"]


@pytest.mark.parametrize("concept", [("", ()), (" ", ()), ("", ("kitten",))])
def test_a_concept_without_a_name_needs_images_and_has_no_synonyms(concept: tuple[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidRequestError, match=r"concept\.name: got"):
        EraseJob(Concept(*concept))


def test_images_come_one_by_one_with_seeds_in_a_row_before_the_completed_event(engine: Engine) -> None:
    caller = Caller(engine, GenerateJob("a dog", seed=7, steps=2, num_images=3)).wait()
    kinds = [type(e) for e in caller.events]
    assert kinds == [Queued, *[GenerateProgress] * 2, *[ImageReady] * 3, GenerateCompleted]
    assert [e.seed for e in caller.events if isinstance(e, ImageReady)] == [7, 8, 9]
    completed = caller.events[-1]
    assert isinstance(completed, GenerateCompleted)
    assert completed.seeds == (7, 8, 9)
    assert completed.model_digest == engine.pipeline.digests.model


def test_the_same_request_draws_the_same_bytes(engine: Engine) -> None:
    first, second = (Caller(engine, DRAW).wait() for _ in range(2))
    assert first.of(ImageReady) == second.of(ImageReady)


def test_a_png_carries_its_settings_unless_told_not_to(engine: Engine) -> None:
    for no_metadata in (False, True):
        caller = Caller(engine, GenerateJob("a dog", steps=1, no_metadata=no_metadata)).wait()
        (image,) = caller.of(ImageReady)
        assert isinstance(image, ImageReady)
        text = Image.open(io.BytesIO(image.data)).text  # type: ignore[attr-defined]
        assert ("a dog" in str(text)) is not no_metadata


def test_an_adapter_changes_the_concept_and_weight_zero_changes_nothing(engine: Engine) -> None:
    Caller(
        engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=10, adapter_name="no-cat")
    ).wait()
    plain, erased, off = (
        Caller(engine, GenerateJob("a cat", steps=4, adapters=refs, no_metadata=True)).wait().of(ImageReady)
        for refs in ((), (AdapterRef("no-cat"),), (AdapterRef("no-cat", 0.0),))
    )
    assert plain == off
    assert plain != erased


def test_a_generation_does_not_wait_behind_an_erasure(engine: Engine) -> None:
    erase = Caller(engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2000))
    erase.reached.acquire()
    Caller(engine, DRAW).wait()
    assert not erase.of(EraseCompleted)
    erase.ticket.cancel()
    assert isinstance(erase.wait().error, CancelledError)


def test_cancelling_stops_within_a_step_and_frees_the_place(engine: Engine) -> None:
    erase = Caller(engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2000))
    while not any(isinstance(e, EraseProgress) and e.phase == "train" for e in erase.events):
        assert erase.reached.acquire(timeout=600)
    erase.ticket.cancel()
    steps_at_cancel = len(erase.events)
    assert isinstance(erase.wait().error, CancelledError)
    assert len(erase.events) <= steps_at_cancel + 1
    assert engine.running == 0
    erase.ticket.cancel()


def test_cancelling_while_the_reports_pictures_are_drawn_stores_nothing_and_frees_the_place(engine: Engine) -> None:
    erase = Caller(engine, EraseJob(Concept("cat"), method="closed_form", report_images=2))
    while not any(isinstance(e, EraseProgress) and e.phase == "draw" for e in erase.events):
        assert erase.reached.acquire(timeout=600)
    erase.ticket.cancel()
    assert isinstance(erase.wait().error, CancelledError)
    assert erase.of(EraseCompleted) == []
    assert engine.library.concept_names() == ()
    assert Caller(engine, DRAW).wait().error is None


def test_a_waiting_erasure_can_be_cancelled_before_it_begins(engine: Engine) -> None:
    first = Caller(engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2000))
    second = Caller(engine, ERASE)
    second.ticket.cancel()
    assert isinstance(second.wait().error, CancelledError)
    assert second.events == [Queued(1)]
    first.ticket.cancel()
    first.wait()


def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(pipeline: Pipeline, tmp_path: Path) -> None:
    engine = Engine(pipeline, AdapterStore(str(tmp_path)), limits=Limits(max_queue=1))
    running = Caller(engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2000))
    while not engine.running:
        running.reached.acquire(timeout=1)
    Caller(engine, ERASE)
    with pytest.raises(QueueFullError, match="allowed 1") as full:
        Caller(engine, ERASE)
    assert full.value.retry_delay_s
    engine.close()
    assert isinstance(running.error, ShuttingDownError)


def test_a_draining_engine_ends_its_work_and_takes_nothing_new(engine: Engine) -> None:
    caller = Caller(engine, DRAW)
    assert engine.drain(grace_s=600)
    assert caller.wait().error is None
    with pytest.raises(ShuttingDownError):
        Caller(engine, DRAW)


def test_a_taken_name_is_refused_before_any_work_unless_replaced(engine: Engine) -> None:
    named = EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2, adapter_name="mine")
    Caller(engine, named).wait()
    with pytest.raises(AlreadyExistsError, match="adapter_name"):
        Caller(engine, named)
    replacing = EraseJob(
        Concept("cat"), images=IMAGES, method="few_shot_lora", steps=2, seed=1, adapter_name="mine", replace=True
    )
    assert Caller(engine, replacing).wait().error is None


def test_an_unnamed_erasure_done_twice_gives_the_same_adapter(engine: Engine) -> None:
    first, second = (Caller(engine, ERASE).wait().of(EraseCompleted)[0] for _ in range(2))
    assert isinstance(first, EraseCompleted)
    assert first == second


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (GenerateJob("a dog", width=63), "width"),
        (GenerateJob("a dog", height=4096), "height"),
        (EraseJob(Concept("cat"), images=IMAGES, method="magic"), "method"),
        (EraseJob(Concept("cat"), images=(b"no picture",)), "images[0]"),
        (EraseJob(Concept("a " * 90 + "cat"), images=IMAGES), "concept.name"),
        (
            EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", options={"layers": 60}),
            "few_shot_lora.layers",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_its_field(
    engine: Engine, job: EraseJob | GenerateJob, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Caller(engine, job)
    assert [v.field for v in refused.value.violations] == [field]
    assert engine.waiting == engine.running == 0


def test_an_unknown_adapter_is_not_found_and_one_given_twice_is_refused(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        Caller(engine, GenerateJob("a dog", adapters=(AdapterRef("nobody"),)))
    completed = Caller(engine, ERASE).wait().of(EraseCompleted)[0]
    assert isinstance(completed, EraseCompleted)
    twice = (AdapterRef(completed.manifest.name), AdapterRef(completed.manifest.digest))
    with pytest.raises(InvalidRequestError, match="allowed once"):
        Caller(engine, GenerateJob("a dog", adapters=twice))


def test_adapters_in_force_are_kept_by_digest_and_given_once_each(engine: Engine) -> None:
    first = Caller(engine, EraseJob(Concept("cat"), method="closed_form", adapter_name="no-cat")).wait()
    (completed,) = first.of(EraseCompleted)
    assert isinstance(completed, EraseCompleted)
    digest = completed.manifest.digest
    beside = EraseJob(Concept("dog"), method="closed_form", adapter_name="no-dog", adapters_in_force=("no-cat",))
    assert Caller(engine, beside).wait().error is None
    metadata = from_bytes(engine.library.export("no-dog", "diffusers")[1])[1]
    assert metadata is not None
    assert metadata.settings["adapters_in_force"] == digest
    assert metadata.settings["stands_in"] in engine.pipeline.vocabulary.nouns
    (replaced,) = metadata.replaced
    assert (replaced.concept.name, replaced.anchor) == ("dog", metadata.settings["stands_in"])
    twice = EraseJob(Concept("fox"), method="closed_form", adapters_in_force=("no-cat", digest))
    with pytest.raises(InvalidRequestError, match=r"adapters_in_force\[1\]: got sha256:\w+ again, allowed once each"):
        Caller(engine, twice)


def test_no_weight_of_the_resident_model_ever_changes(engine: Engine) -> None:
    before = weights_hash(engine.pipeline)
    erase = Caller(
        engine, EraseJob(Concept("cat"), images=IMAGES, method="few_shot_lora", steps=20, adapter_name="no-cat")
    )
    while not any(isinstance(e, EraseProgress) and e.phase == "train" for e in erase.events):
        assert erase.reached.acquire(timeout=600)
    assert weights_hash(engine.pipeline) == before
    erase.wait()
    Caller(engine, GenerateJob("a cat", steps=2, adapters=(AdapterRef("no-cat", 1.5),))).wait()
    assert weights_hash(engine.pipeline) == before


def test_a_batch_that_exceeds_the_memory_is_drawn_one_by_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_device(pipeline: Pipeline, runs: list[object], *, max_batch: int) -> None:
        if len(runs) > 1:
            raise torch.OutOfMemoryError
        denoise_step(pipeline, runs, max_batch=max_batch)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "denoise_step", small_device)
    callers = [Caller(engine, GenerateJob("a dog", seed=i, steps=2)) for i in range(3)]
    assert [c.wait().error for c in callers] == [None] * 3


def test_a_job_that_exceeds_the_memory_fails_alone_and_the_engine_lives_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny_device(pipeline: Pipeline, runs: list[object], *, max_batch: int) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "denoise_step", tiny_device)
        assert isinstance(Caller(engine, DRAW).wait().error, OutOfMemoryError)
    assert Caller(engine, DRAW).wait().error is None

"""What stands beside an adapter while a picture is drawn: its schedule, its gate, and the guard."""

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.core.adapters import METADATA
from tests.core.factors import random_factors
from unsee_core.adapter_schedule import AdapterSchedule
from unsee_core.answers import GenerateCompleted, ImageReady
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, denoise_step
from unsee_core.engine import Engine
from unsee_core.errors import InvalidRequestError
from unsee_core.gate import names_concept
from unsee_core.guard import BOUND, Steering, encoded_guard
from unsee_core.job import AdapterRef, Concept, GenerateJob, Guard
from unsee_core.lanes import Event
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterStore

CAT = Concept("cat", ("house pet",))
DRAW = GenerateJob("a cat", "a blur", seed=5, steps=4, num_images=2)
ATOL = 1e-4  # float32; other batch shapes add up in another order, once per step


@pytest.fixture
def engine(tiny_pipeline: Pipeline, tmp_path: Path) -> Iterator[Engine]:
    """An engine with three adapters: of a cat, of a dog, and of what images alone show."""
    running = Engine(tiny_pipeline, AdapterStore(str(tmp_path)))
    concepts = {"no-cat": CAT, "no-dog": Concept("dog"), "no-images": Concept("<images-1>")}
    for seed, (name, concept) in enumerate(concepts.items()):
        factors = random_factors(tiny_pipeline, 2, seed=seed)
        metadata = replace(METADATA, concept=concept, rank=2, base_model=tiny_pipeline.base_model)
        running.library.add(factors, metadata, name=name, replace=False, labels={})
    yield running
    running.close()


def drawn(engine: Engine, job: GenerateJob) -> tuple[GenerateCompleted, list[bytes]]:
    """Return how a generation ended and its pictures' files."""
    events: list[Event] = []
    ended = threading.Event()
    errors: list[Exception | None] = []
    engine.submit(job, events.append, lambda error: (errors.append(error), ended.set()))
    assert ended.wait(60)
    assert errors == [None]
    completed = events[-1]
    assert isinstance(completed, GenerateCompleted)
    return completed, [event.data for event in events if isinstance(event, ImageReady)]


def pixels(engine: Engine, *refs: AdapterRef, **changes: object) -> list[bytes]:
    """Return the pictures of ``DRAW`` with adapters, without what is written into the files."""
    _, files = drawn(engine, replace(DRAW, adapters=refs, **changes))
    return [Image.open(io.BytesIO(data)).tobytes() for data in files]


def scheduled(*shares: float) -> AdapterRef:
    return AdapterRef("no-cat", schedule=AdapterSchedule(*shares))


def test_a_schedule_of_all_steps_is_none_and_one_of_no_step_is_no_adapter(engine: Engine) -> None:
    always, never = pixels(engine, AdapterRef("no-cat")), pixels(engine)
    assert always != never
    assert pixels(engine, scheduled(0, 1)) == always
    assert pixels(engine, scheduled(0, 1, 0.5)) == always
    assert pixels(engine, scheduled(0, 0)) == pixels(engine, scheduled(1, 1)) == never


def test_a_part_of_the_steps_draws_something_else_than_all_and_none(engine: Engine) -> None:
    shares = ((0, 1), (0, 0), (0, 0.5), (0.5, 1), (0.25, 1, 0.5))
    assert len({pixels(engine, scheduled(*given))[0] for given in shares}) == len(shares)


@pytest.mark.parametrize(
    ("shares", "strengths"),
    [
        ((0.0, 0.5, 0.0), [1, 1, 0, 0]),
        ((0.25, 0.75, 0.0), [0, 1, 1, 0]),
        ((0.0, 1.0, 1.0), [1, 1, 1, 1]),
        ((0.25, 1.0, 0.5), [0, 0.25, 0.75, 1]),
        ((0.0, 0.75, 0.5), [1, 0.75, 0.25, 0]),
    ],
)
def test_a_schedule_rises_and_falls_within_the_steps(shares: tuple[float, ...], strengths: list[float]) -> None:
    assert [AdapterSchedule(*shares).strength_at(step, 4) for step in range(4)] == strengths


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"start": -0.1}, "start"),
        ({"start": float("nan")}, "start"),
        ({"end": 1.1}, "end"),
        ({"start": 0.5, "end": 0.4}, "end"),
        ({"ramp": float("inf")}, "ramp"),
    ],
)
def test_a_schedule_outside_the_steps_is_refused(given: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"adapters\.schedule\.{field}: got"):
        AdapterSchedule(**given)


@pytest.mark.parametrize(
    ("prompt", "is_named"),
    [
        ("a cat", True), ("CATS!", True), ("cat2", True), ("the cat's bowl", True), ("my ｃａｔ", True),
        ("a house", True), ("two pets", True),
        ("", False), ("a category", False), ("a kitty", False), ("a dog in the garden", False),
    ],
)  # fmt: skip
def test_a_prompt_names_a_concept_if_it_shares_a_word(prompt: str, is_named: bool) -> None:
    assert names_concept(prompt, CAT) is is_named


@pytest.mark.parametrize(
    ("name", "prompt", "is_named"),
    [
        ("cherries", "one cherry", True),
        ("fox", "some foxes", True),
        ("glass", "a glas", False),
        ("the starry night", "the dog", False),
        ("a", "a dog", True),
        ("猫", "黒い猫の絵", True),
    ],
)
def test_names_are_compared_by_their_own_words(name: str, prompt: str, is_named: bool) -> None:
    assert names_concept(prompt, Concept(name)) is is_named


def test_a_gate_leaves_prompts_that_share_no_word_bit_identical(engine: Engine) -> None:
    gated = AdapterRef("no-cat", gate=True)
    without = pixels(engine, prompt="a dog")
    assert pixels(engine, gated, prompt="a dog") == without
    assert pixels(engine, AdapterRef("no-cat"), prompt="a dog") != without


def test_a_gate_opens_for_each_prompt_by_itself(engine: Engine) -> None:
    gated = AdapterRef("no-cat", gate=True)
    assert pixels(engine, gated, negative_prompt="a cat") == pixels(
        engine, AdapterRef("no-cat"), negative_prompt="a cat"
    )
    one, other = pixels(engine, gated), pixels(engine, gated, prompt="a dog", negative_prompt="a cat")
    assert one not in (pixels(engine), pixels(engine, AdapterRef("no-cat")))  # the negative prompt is not changed
    assert other != pixels(engine, prompt="a dog", negative_prompt="a cat")


def test_a_gate_without_a_name_to_look_for_is_refused(engine: Engine) -> None:
    job = replace(DRAW, adapters=(AdapterRef("no-dog"), AdapterRef("no-images", gate=True)))
    with pytest.raises(InvalidRequestError, match=r"adapters\[1\]\.gate: got true for 'no-images'"):
        drawn(engine, job)


def test_a_guard_of_scale_zero_is_none(engine: Engine) -> None:
    assert drawn(engine, replace(DRAW, guard=Guard(0.0)))[1] == drawn(engine, DRAW)[1]


def test_a_guard_takes_its_words_from_the_adapters_that_erase(engine: Engine) -> None:
    refs = (AdapterRef("no-cat"), AdapterRef("no-dog", -1.0), AdapterRef("no-images"))
    completed, _ = drawn(engine, replace(DRAW, adapters=refs, guard=Guard(2.0)))
    assert completed.guard == Guard(2.0, ("cat",))
    given, _ = drawn(engine, replace(DRAW, adapters=refs, guard=Guard(2.0, ("a fox", "a fox"))))
    assert given.guard.words == ("a fox",)


@pytest.mark.parametrize("refs", [(), (AdapterRef("no-images"),), (AdapterRef("no-cat", -1.0),)])
def test_a_guard_that_has_nothing_to_look_for_is_refused(engine: Engine, refs: tuple[AdapterRef, ...]) -> None:
    with pytest.raises(InvalidRequestError, match=r"guard\.words: got 0"):
        drawn(engine, replace(DRAW, adapters=refs, guard=Guard(1.0)))


@pytest.mark.parametrize(
    ("scale", "words", "field"),
    [
        (-1.0, (), "scale"),
        (11.0, (), "scale"),
        (float("nan"), (), "scale"),
        (0.0, ("cat",), "scale"),
        (1.0, ("cat", " "), r"words\[1\]"),
        (1.0, ("cat",) * 17, "words"),
    ],
)
def test_a_guard_that_is_not_allowed_is_refused(scale: float, words: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"guard\.{field}: got"):
        Guard(scale, words)


def test_the_completed_event_and_the_picture_tell_of_all_three(engine: Engine) -> None:
    schedule = AdapterSchedule(0.25, 0.75, 0.125)
    refs = (AdapterRef("no-cat", schedule=schedule, gate=True), AdapterRef("no-dog", gate=True))
    completed, files = drawn(engine, replace(DRAW, adapters=refs, guard=Guard(2.0)))
    cat, dog = completed.adapters
    assert (cat.schedule, cat.gate, cat.acts_on_prompt, cat.acts_on_negative_prompt) == (schedule, True, True, False)
    assert (dog.schedule, dog.gate, dog.acts_on_prompt, dog.acts_on_negative_prompt) == (None, True, False, False)
    told = json.loads(Image.open(io.BytesIO(files[0])).text["unsee"])  # type: ignore[attr-defined]
    assert told["guard"] == {"scale": 2.0, "words": ["cat", "dog"]}
    assert told["adapters"][0]["schedule"] == {"start": 0.25, "end": 0.75, "ramp": 0.125}
    assert [adapter["gate"]["prompt"] for adapter in told["adapters"]] == [True, False]


def steered(scale: float) -> Steering:
    unread = torch.zeros(1, 1, 1)
    return Steering(scale, (unread, unread), unread)


def test_a_guard_takes_away_the_share_that_leans_and_leaves_what_does_not() -> None:
    draw = torch.Generator().manual_seed(0)
    empty, concept, other, rest = torch.randn(4, 1, 4, 8, 8, generator=draw)
    leaning, indifferent = empty + 2 * (concept - empty) + 0.1 * rest, empty + rest
    batch = torch.cat([leaning, indifferent])
    guards = [guard.expand(2, -1, -1, -1) for guard in (concept, other, empty)]
    away = steered(0.5).away(batch, guards)
    assert torch.equal(away[1:], indifferent)
    direction = concept - empty

    def lean(predicted: Tensor) -> float:
        return float(((predicted - empty) * direction).sum() / direction.square().sum())

    assert lean(away[:1]) == pytest.approx(lean(leaning) / 2, rel=1e-4)
    assert lean(leaning) > 1 > BOUND


def latents(pipeline: Pipeline, job: GenerateJob, *, until: str | None = None) -> Tensor:
    """Return what a job draws; the prompt is ``until`` from the second step on."""
    conditioner = Conditioner(pipeline)
    cond, uncond, later = conditioner.encode(
        [job.prompt, job.negative_prompt, job.prompt if until is None else until]
    ).split(1)
    run = DenoiseRun(
        pipeline,
        job,
        cond,
        uncond,
        rescheduled=lambda step, _: (later if step else cond, uncond),
        steering=encoded_guard(job.guard, conditioner),
    )
    while not run.done:
        denoise_step(pipeline, [run], max_batch=4)
    return run.latents


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_guarded_concept_at_scale_one_is_drawn_as_the_empty_prompt(
    tiny_pipeline: Pipeline, guidance_scale: float
) -> None:
    job = replace(DRAW, guidance_scale=guidance_scale)
    guarded = latents(tiny_pipeline, replace(job, guard=Guard(1.0, (job.prompt,))))
    torch.testing.assert_close(guarded, latents(tiny_pipeline, job, until=""), rtol=0, atol=ATOL)
    assert (guarded - latents(tiny_pipeline, job)).abs().max() > 10 * ATOL


def test_a_guard_keeps_a_neighbour_and_not_the_concept(pipeline: Pipeline) -> None:
    guard = Guard(2.0, ("a photo of a cat",))
    moved = []
    for prompt in ("a dog", "a kitten"):
        job = GenerateJob(prompt, seed=3, steps=6, guidance_scale=4.0)
        moved.append(float((latents(pipeline, replace(job, guard=guard)) - latents(pipeline, job)).abs().max()))
    assert moved[0] < ATOL
    assert moved[1] > 0.5

"""What an erasure does to pictures: the figures, what is drawn, and that nothing else depends on it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.core.erasing import a_context
from unsee_core import learned_distance
from unsee_core.answers import EraseProgress, ReportImage
from unsee_core.errors import InvalidRequestError
from unsee_core.integrity import STEPS, draw_for_report, ms_ssims, picture_distances, report_prompts
from unsee_core.job import Concept, EraseJob
from unsee_core.learned_distance import lpips_distances
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.methods import EraseContext
from unsee_core.pipeline import Pipeline

RED = "a red thing"


def pictures(count: int, side: int = 64) -> Tensor:
    """Return pictures ``(n, 3, side, side)`` of smooth noise in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def noise_like(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [33, 64, 200])
def test_equal_pictures_are_alike_and_noise_makes_them_less_so(side: int) -> None:
    first = pictures(2, side)
    likeness = [ms_ssims(first, (first + share * noise_like(first)).clamp(-1, 1)) for share in (0.0, 0.1, 0.5)]
    torch.testing.assert_close(likeness[0], torch.ones(2))
    assert (likeness[0] > likeness[1]).all()
    assert (likeness[1] > likeness[2]).all()
    assert (likeness[2] >= 0).all()


def test_equal_pictures_have_no_distance_and_noise_gives_them_more_and_more(pipeline: Pipeline) -> None:
    first = pictures(2)
    near, far = (picture_distances(pipeline, first, first + share * noise_like(first)) for share in (0.05, 0.5))
    assert picture_distances(pipeline, first, first).tolist() == [0.0, 0.0]
    assert (near > 0).all()
    assert (far > near).all()
    assert (far <= 2).all()
    torch.testing.assert_close(
        picture_distances(pipeline, first, first.flip(0)), picture_distances(pipeline, first.flip(0), first)
    )


def test_first_comes_the_concept_then_what_the_request_keeps_then_the_nearest(pipeline: Pipeline) -> None:
    context = a_context(pipeline, retain_prompts=(RED,), report_images=4)
    concept, kept, *nearest = report_prompts(context)
    assert "cat" in concept
    assert kept == RED
    assert len(nearest) == 2
    assert all(prompt.startswith("a photo of") and "cat" not in prompt for prompt in nearest)


def drawn(context: EraseContext, factors: LoraFactors):
    steps, events = draw_for_report(context, factors), []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return *end.value, events


def a_change(pipeline: Pipeline, size: float) -> LoraFactors:
    """Return factors that change the last layer's output alike for every prompt."""
    generator = torch.Generator().manual_seed(0)
    inner, width = pipeline.text_encoder.config.intermediate_size, pipeline.encoder_width
    a, b = (torch.randn(shape, generator=generator) * size for shape in ((2, inner), (width, 2)))
    return LoraFactors({f"text_model.encoder.layers.{pipeline.encoder_layers - 1}.mlp.fc2": LoraPair(a, b)})


def test_a_change_of_nothing_leaves_the_pictures_as_they_are(tiny_pipeline: Pipeline) -> None:
    context = a_context(tiny_pipeline, report_images=3)
    integrity, images, events = drawn(context, a_change(tiny_pipeline, 0.0))
    assert (integrity.mean_distance, integrity.max_distance, integrity.concept_distance) == (0, 0, 0)
    assert integrity.min_ms_ssim == pytest.approx(1)
    assert integrity.prompts == 2
    assert [image.png for image in images[::2]] == [image.png for image in images[1::2]]
    steps = [event for event in events if isinstance(event, EraseProgress)]
    assert [(step.phase, step.step, step.total) for step in steps] == [("draw", i + 1, STEPS) for i in range(STEPS)]
    assert [event for event in events if isinstance(event, ReportImage)] == list(images)


def test_a_change_shows_in_the_figures_and_sides_share_their_seed(tiny_pipeline: Pipeline) -> None:
    context = a_context(tiny_pipeline, report_images=2, seed=7)
    integrity, images, _ = drawn(context, a_change(tiny_pipeline, 0.5))
    assert integrity.max_distance == integrity.mean_distance > 0
    assert integrity.mean_ms_ssim < 1
    assert integrity.worst_prompt == images[2].prompt
    assert [(image.seed, image.with_adapter, image.of_concept) for image in images] == [
        (7, False, True), (7, True, True), (8, False, False), (8, True, False),
    ]  # fmt: skip
    again, *_ = drawn(context, a_change(tiny_pipeline, 0.5))
    assert again == integrity


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"report_images": 1}, "report_images"),
        ({"report_images": 9}, "report_images"),
        ({"keep_images": True}, "keep_images"),
        ({"report_images": 2, "seed": 2**63 - 1}, "seed"),
    ],
)
def test_a_number_of_pictures_that_says_nothing_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{field}: got .*allowed"):
        replace(EraseJob(Concept("cat"), images=(b"x",)), **changes)


def test_pictures_are_written_nowhere(tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn(a_context(tiny_pipeline, report_images=2), a_change(tiny_pipeline, 0.1))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """The folder where torch's loaders keep what they fetched; empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    yield folder
    torch.hub.set_dir(before)


@pytest.fixture
def lpips_files(hub: Path) -> Path:
    """Random weights where the published ones would lie, with more in them than is read, as there is."""
    torch.manual_seed(0)
    distance = learned_distance._Lpips()
    features = {name: value for name, value in distance.state_dict().items() if name.startswith("features")}
    channels = {name: value.abs() for name, value in distance.state_dict().items() if name.startswith("lin")}
    torch.save(features | {"classifier.1.bias": torch.zeros(4096)}, hub / learned_distance.BACKBONE)
    torch.save(channels, hub / learned_distance.CHANNELS)
    return hub


@pytest.mark.usefixtures("lpips_files")
@pytest.mark.parametrize("side", [16, 64, 100])
def test_equal_pictures_have_no_lpips_and_noise_gives_them_more_and_more(side: int) -> None:
    first = pictures(2, side)
    others = (first, *((first + share * noise_like(first)).clamp(-1, 1) for share in (0.05, 0.5)))
    same, near, far = (lpips_distances(first, other) for other in others)
    assert same.tolist() == [0.0, 0.0]
    assert (near > 0).all()
    assert (far > near).all()


@pytest.mark.usefixtures("lpips_files")
def test_a_report_has_lpips_of_what_must_stay_and_of_the_concept(tiny_pipeline: Pipeline) -> None:
    integrity, *_ = drawn(a_context(tiny_pipeline, report_images=3), a_change(tiny_pipeline, 0.5))
    assert 0 < integrity.mean_lpips <= integrity.max_lpips
    assert integrity.concept_lpips > 0


@pytest.mark.parametrize("missing", [learned_distance.BACKBONE, learned_distance.CHANNELS])
def test_without_its_weights_lpips_is_left_out(lpips_files: Path, missing: str, tiny_pipeline: Pipeline) -> None:
    (lpips_files / missing).unlink()
    integrity, *_ = drawn(a_context(tiny_pipeline, report_images=2), a_change(tiny_pipeline, 0.5))
    assert (integrity.mean_lpips, integrity.max_lpips, integrity.concept_lpips) == (None, None, None)
    assert integrity.max_distance > 0


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_broken_file_of_weights_is_told_and_costs_lpips_alone(
    lpips_files: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (lpips_files / learned_distance.BACKBONE).write_bytes(content)
    assert lpips_distances(pictures(1), pictures(1)) is None
    assert "LPIPS is left out of reports" in caplog.text


def test_other_weights_than_alexnets_are_told(lpips_files: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"features.0.weight": torch.zeros(2)}, lpips_files / learned_distance.BACKBONE)
    assert lpips_distances(pictures(1), pictures(1)) is None
    assert "LPIPS is left out of reports" in caplog.text

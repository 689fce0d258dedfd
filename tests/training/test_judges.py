"""The judges that ship, on the client pictures that ship."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import judges
from bench.judges import Judges
from training.client_images import IMAGES, PER_CONCEPT
from training.world import LOOKS, OBJECTS


@pytest.fixture(scope="module")
def judge() -> Judges:
    return judges.load()


def client_images(concepts: tuple[str, ...]) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(IMAGES / name / f"{number}.png")) for name in concepts for number in range(PER_CONCEPT)]
    )


def test_every_concept_has_five_client_pictures_and_all_are_small():
    expected = {*OBJECTS, *LOOKS[1:]}
    assert {directory.name for directory in IMAGES.iterdir() if directory.is_dir()} == expected
    files = list(IMAGES.rglob("*.png"))
    assert len(files) == PER_CONCEPT * len(expected)
    assert sum(file.stat().st_size for file in files) < 1_500_000


def test_objects_are_told_apart(judge: Judges):
    asked = [name for name in OBJECTS for _ in range(PER_CONCEPT)]
    seen = judge.objects(client_images(OBJECTS)).names
    assert np.mean([a == b for a, b in zip(asked, seen, strict=True)]) >= 0.98


def test_looks_are_told_apart(judge: Judges):
    asked = [name for name in LOOKS[1:] for _ in range(PER_CONCEPT)] + ["plain"] * PER_CONCEPT * len(OBJECTS)
    seen = judge.looks(client_images((*LOOKS[1:], *OBJECTS))).names
    assert np.mean([a == b for a, b in zip(asked, seen, strict=True)]) >= 0.97


def test_the_left_and_the_right_object_are_named_in_order(judge: Judges):
    small = {name: np.asarray(Image.open(IMAGES / name / "0.png").resize((31, 31))) for name in ("cat", "rocket")}
    picture = np.full((1, 64, 64, 3), 255, np.uint8)
    picture[0, 16:47, :31], picture[0, 16:47, 33:] = small["cat"], small["rocket"]
    left, right = judge.pairs(picture)
    assert (left.names, right.names) == (["cat"], ["rocket"])


def test_recorded_held_out_accuracies_reach_the_goal():
    figures = json.loads((judges.WEIGHTS.parent / "held_out.json").read_text())
    assert set(figures) == {"objects", "looks", "halves"}
    assert min(figures.values()) >= 0.98
    assert judges.WEIGHTS.stat().st_size < 3_000_000


def test_pictures_of_another_size_are_refused(judge: Judges):
    with pytest.raises(ValueError, match=r"images: got uint8 \(1, 32, 32, 3\), must be uint8 \(B, 64, 64, 3\)"):
        judge.objects(np.zeros((1, 32, 32, 3), np.uint8))

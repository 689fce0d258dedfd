import random

import numpy as np
import pytest

from training.icons import ICON_SETS, SIDE, svg
from training.pictures import captioned, draw, in_look
from training.world import LOOKS, OBJECTS, Scene

RED, BLUE = (200, 30, 30, 255), (30, 30, 200, 255)


@pytest.fixture
def discs() -> np.ndarray:
    """A red disc for every object but the second, whose disc is blue, in each of three sets."""
    across = np.linspace(-1, 1, SIDE)
    inside = across[:, None] ** 2 + across**2 < 0.9
    pictures = np.zeros((len(OBJECTS), len(ICON_SETS), SIDE, SIDE, 4), np.uint8)
    pictures[:, :, inside] = RED
    pictures[1][:, inside] = BLUE
    return pictures


def test_a_picture_depends_on_seed_and_index_only(discs):
    first, again, other = (captioned(index, discs, seed=7) for index in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert first[2] != captioned(3, discs, seed=8)[2]
    assert first[2] != other[2]


def test_two_objects_stand_left_and_right_as_named(discs):
    picture = draw(Scene((OBJECTS[0], OBJECTS[1])), discs, random.Random(0))
    left, right = picture[32, 16].astype(int), picture[32, 48].astype(int)
    assert left[0] > left[2]
    assert right[2] > right[0]


def test_every_look_changes_the_picture_in_its_own_way(discs):
    drawn = [draw(Scene((OBJECTS[0],), look), discs, random.Random(0)) for look in LOOKS]
    assert len({picture.tobytes() for picture in drawn}) == len(LOOKS)
    assert {picture.shape for picture in drawn} == {(64, 64, 3)}


def test_pixel_art_has_sixteen_cells_for_each_object(discs):
    for objects in ((OBJECTS[0],), (OBJECTS[0], OBJECTS[1])):
        side = 4 // len(objects)
        picture = draw(Scene(objects, "pixel art"), discs, random.Random(0))
        cells = picture[::side, ::side].repeat(side, 0).repeat(side, 1)
        np.testing.assert_array_equal(picture, cells)


def test_an_unknown_look_is_named_with_those_allowed():
    with pytest.raises(ValueError, match="look: 'cubist' is not one of"):
        in_look(np.zeros((64, 64, 3), np.uint8), "cubist", cells=16)


def test_an_icon_is_found_by_its_alias():
    icon_set = {
        "icons": {"cat": {"body": "<path/>"}},
        "aliases": {"kitty": {"parent": "cat"}},
        "width": 32,
        "height": 24,
    }
    assert svg(icon_set, "kitty") == svg(icon_set, "cat")
    assert 'viewBox="0 0 32 24"' in svg(icon_set, "cat")


def test_a_missing_icon_is_an_error():
    with pytest.raises(KeyError, match="unicorn"):
        svg({"icons": {}}, "unicorn")

"""The bench of the warning that name and images disagree."""

import json

from bench import image_check
from bench.splits import REPORTED_HALF, near_neighbours


def test_every_image_is_shown_under_its_own_name_near_ones_and_others():
    names = list(image_check.names_for("dog", REPORTED_HALF))
    by_kind = {kind: [name for which, name in names if which == kind] for kind in image_check.NAMES}
    assert by_kind["its own"] == ["dog"]
    assert set(by_kind["of a near object"]) < set(near_neighbours("dog"))
    assert not set(by_kind["of another object"]) & {"dog", *near_neighbours("dog")}
    assert [len(by_kind[kind]) for kind in image_check.NAMES] == [1, image_check.NEAR, image_check.OTHERS]
    assert names == list(image_check.names_for("dog", REPORTED_HALF))


def test_right_names_are_not_warned_of_and_most_others_are(tmp_path):
    assert image_check.main(["--objects", "2", "--seeds", "0", "--results", str(tmp_path)]) == 0
    warned = json.loads((tmp_path / "image_check.json").read_text())["warned"]
    assert warned["its own"] == [0, 2]
    assert warned["of another object"][0] >= 3
    table = (tmp_path / "image_check.md").read_text()
    assert "| its own | 0% [0%, 66%] of 2 |" in table

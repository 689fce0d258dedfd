"""The bench of many objects at once: the same questions for both ways, counted once, told in one table."""

import json
from pathlib import Path

import pytest

from bench import compose
from bench.splits import REPORTED_HALF, TUNING_HALF
from training.world import OBJECTS


def test_objects_are_the_first_of_a_half_and_all_where_it_has_fewer():
    assert compose.objects_of(5, "held-out") == REPORTED_HALF[:5]
    assert compose.objects_of(25, "tuning") == TUNING_HALF
    assert set(compose.objects_of(50, "held-out")) == set(OBJECTS)


def test_each_object_is_asked_for_equally_often():
    asked = compose.questions_for(("cat", "dog", "owl"), 10)
    assert [sum(q.objects == (name,) for q in asked) for name in ("cat", "dog", "owl")] == [4, 4, 4]
    assert len({(q.text, q.seed) for q in asked}) == 12
    assert compose.questions_for((), 10) == ()


def test_both_ways_are_measured_once_and_told_in_a_table(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options = ["--counts", "1", "2", "--pictures", "2", "--model", str(tiny), "--results", str(tmp_path)]
    assert compose.main(options) == 0
    content = json.loads((tmp_path / "compose.json").read_text())
    assert [(one["count"], one["way"]) for one in content["lines"]] == [
        (n, way) for n in (1, 2) for way in compose.WAYS
    ]
    assert all(one["ua"]["of"] == 2 and one["seconds"] > 0 for one in content["lines"])
    joint, summed = content["lines"][2:]
    assert joint["size_bytes"] < summed["size_bytes"]
    assert (tmp_path / "compose.md").read_text().count("| held-out |") == 4
    capsys.readouterr()
    monkeypatch.setattr(compose, "measure", None)
    assert compose.main(options) == 0
    assert capsys.readouterr().out == ""

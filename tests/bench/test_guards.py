"""The guards bench: its table, and that a second run goes on from the first."""

import json
from pathlib import Path

import pytest

from bench import guards as bench
from bench import lines

QUICK = ("--concepts", "dog", "--pictures", "2", "--steps", "2", "--attack-steps", "2")


def line(concept: str, setting: str, gone: int, seconds: float) -> dict[str, object]:
    shares = {"ua": [gone, 10], "attack_gone": [1, 10], "ira": [9, 10], "near": [0, 0]}
    return {
        "concept": concept,
        "setting": setting,
        **shares,
        "seconds_a_picture": seconds,
        "under": {"model": "sha256:m"},
    }


def test_the_table_adds_up_the_concepts_of_each_setting() -> None:
    measured = [line("dog", "guard 1", 9, 0.1), line("fox", "guard 1", 6, 0.3), line("dog", "gate", 10, 0.5)]
    text = bench.markdown(measured, "python -m bench.guards")
    assert "| guard 1 | 75.0% [53.1%, 88.8%] of 20 | 10.0% [" in text
    assert "| none | 0.20 |" in text
    assert "| fox | guard 1 | 6 of 10 | 1 of 10 | 9 of 10 | 0 of 0 |" in text


def test_every_setting_is_measured_once(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(tiny), "--results", str(tmp_path), *QUICK]
    assert bench.main(words) == 0
    measured = lines.read(tmp_path / "guards.jsonl")
    assert [one["setting"] for one in measured] == [bench.UNEDITED, *(setting.name for setting in bench.SETTINGS)]
    assert all(one["ua"][1] == one["attack_gone"][1] == 2 for one in measured)
    assert "dog: 7 settings" in capsys.readouterr().out
    assert bench.main(words) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "guards.json").read_text(encoding="utf-8"))["lines"] == measured

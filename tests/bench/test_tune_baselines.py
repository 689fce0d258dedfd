"""Trying recipes: on the tuning half only, each once, with the settled one among them."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench import lines, tune_baselines
from bench.baselines import BASELINES
from bench.splits import TUNING_HALF, TUNING_LOOKS
from bench.tune_baselines import CONCEPTS, TRIED, main


def test_only_concepts_of_the_tuning_half_are_tried():
    assert set(CONCEPTS) <= {*TUNING_HALF, *TUNING_LOOKS}


@pytest.mark.parametrize("name", list(BASELINES))
def test_the_settled_recipe_is_among_those_that_were_tried(name: str):
    recipe = BASELINES[name].recipe
    assert recipe in [replace(recipe, **changes) for changes in TRIED[name]]
    measured = [line for line in lines.read(lines.RESULTS / "baselines_tuning.jsonl") if line["baseline"] == name]
    assert {line["concept"] for line in measured if line["recipe"] == asdict(recipe)} == set(CONCEPTS)


def test_a_second_run_tries_nothing_again(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def attempt(gallery: object, name: str, recipe: object, concept: str) -> dict[str, object]:
        asked.append((name, recipe, concept))
        share = {"hits": 1, "of": 2}
        return {"ua": share, "ira": share, "cra": share, "seconds": 1.0}

    monkeypatch.setattr(tune_baselines, "attempt", attempt)
    options = ["--model", str(tiny), "--results", str(tmp_path), "--baselines", "esd_x"]
    assert main(options) == 0
    assert len(asked) == len(set(asked)) == len(TRIED["esd_x"]) * len(CONCEPTS)
    assert "| esd_x |" in (tmp_path / "baselines_tuning.md").read_text()
    assert main(options) == 0
    assert len(asked) == len(TRIED["esd_x"]) * len(CONCEPTS)

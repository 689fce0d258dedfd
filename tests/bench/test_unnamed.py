"""What adversarial prompts draw without the concept's name."""

import json
from pathlib import Path

import pytest

from bench import lines, unnamed
from bench.drawing import MODEL
from bench.erasing import concept_of
from bench.eyes import OwnJudge
from bench.painting import Model
from unsee_core.job import Guard
from unsee_core.pipeline import Pipeline, load_pipeline


def a_line(concept: str, prompt: str) -> dict[str, object]:
    rows = [{"attack": "name", "adapter": {}}, {"attack": "adversarial_prompt", "adapter": {"detail": prompt}}]
    model = load_pipeline(str(MODEL), device="cpu").digests.model
    return {
        "concept": concept,
        "method": "closed_form",
        "settings": {},
        "recipe": {},
        "seed": 0,
        "budget": {"prompt_steps": 2, "restarts": 1, "inversion_tokens": [1], "drawing_steps": 4},
        "harden": 0,
        "random_prefixes": True,
        "beyond": False,
        "model": model,
        "rows": rows,
    }


def test_of_a_prompt_without_the_name_the_rest_stays() -> None:
    assert unnamed.without_name("octopus pen a photo of a cookie", concept_of("cookie")) == "octopus pen a photo"
    assert unnamed.without_name("drum a dog in ink sketch style", concept_of("ink sketch")) == "drum a dog"
    with pytest.raises(ValueError, match="does not end with 'a photo of a cookie'"):
        unnamed.without_name("a photo of a cookie jar", concept_of("cookie"))


def test_another_words_name_draws_the_concept_where_its_own_is_left_out(tmp_path: Path) -> None:
    lines.append(tmp_path / "audit.jsonl", [a_line("dog", "puppy a photo of a dog (40 steps)")])
    assert unnamed.main(["--pictures", "2", "--results", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "unnamed.json").read_text())["rows"]
    assert row["erased_by"] == "closed_form, random_prefixes"
    assert row["shown"]["unedited, no name"] == [2, 2]
    assert row["shown"]["adapter, no name"][0] < 2
    assert [row["shown"][f"the same, guard {scale}"][1] for scale in (1, 2)] == [2, 2]
    text = (tmp_path / "unnamed.md").read_text()
    assert "| `puppy a photo of a dog` | 2 of 2 |" in text
    searched = row["searched"]
    assert searched["prompt"].endswith(" a photo")
    assert not {"dog", "puppy", "hound"} & set(searched["prompt"].split())
    assert f"| dog | `{searched['prompt']}` | " in text


def test_a_guard_stops_what_an_unedited_model_draws(pipeline: Pipeline) -> None:
    plain, guarded = Model(pipeline), Model(pipeline, guard=Guard(2.0, ("dog",)))
    shown = [unnamed.shown(model, OwnJudge(), "a photo of a dog", "dog", 2).hits for model in (plain, guarded)]
    assert shown == [2, 0]


def test_another_noun_takes_an_objects_place_and_a_looks_none(pipeline: Pipeline) -> None:
    another = unnamed.with_another(pipeline, "octopus pen a photo of a cookie", concept_of("cookie"))
    assert another is not None
    assert another.startswith("octopus pen a photo of a")
    assert "cookie" not in another
    assert unnamed.with_another(pipeline, "drum a dog in ink sketch style", concept_of("ink sketch")) is None

"""What adversarial prompts draw without the concept's name."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench import lines, unnamed
from bench.drawing import MODEL
from bench.editing import recipe_of, settings_of
from bench.erasing import concept_of
from bench.eyes import OwnJudge
from bench.painting import Model
from unsee_core.job import Guard
from unsee_core.pipeline import Pipeline, load_pipeline

BUDGET = {"prompt_steps": 2, "restarts": 1, "inversion_tokens": [1], "drawing_steps": 4}


def a_line(concept: str, prompt: str, **changes: Any) -> dict[str, Any]:
    pipeline = load_pipeline(str(MODEL), device="cpu")
    rows = [{"attack": "name", "adapter": {}}, {"attack": "adversarial_prompt", "adapter": {"detail": prompt}}]
    hardening = {"harden": 0, "random_prefixes": True, "beyond": False, "strict": False}
    line = {"concept": concept, "method": "closed_form", "seed": 0, "budget": BUDGET, "rows": rows} | hardening
    job = unnamed.job_of_line(line)
    settings = settings_of(pipeline, "closed_form", job)
    made = {"model": pipeline.digests.model, "settings": asdict(settings), "recipe": recipe_of(job, settings)}
    return line | made | changes


def test_of_a_prompt_without_the_name_the_rest_stays() -> None:
    assert unnamed.without_name("octopus pen a photo of a cookie", concept_of("cookie")) == "octopus pen a photo"
    assert unnamed.without_name("drum a dog in ink sketch style", concept_of("ink sketch")) == "drum a dog"
    with pytest.raises(ValueError, match="does not end with 'a photo of a cookie'"):
        unnamed.without_name("a photo of a cookie jar", concept_of("cookie"))


def test_another_words_name_draws_the_concept_where_its_own_is_left_out_and_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outdated = a_line("dog", "fox a photo of a dog (40 steps)", recipe={"rank": 3})
    lines.append(tmp_path / "audit.jsonl", [a_line("dog", "puppy a photo of a dog (40 steps)"), outdated])
    words = ["--pictures", "2", "--results", str(tmp_path)]
    assert unnamed.main(words) == 0
    assert capsys.readouterr().out == "left out: 1 of adapters that are made otherwise today\n"
    content = json.loads((tmp_path / "unnamed.json").read_text())
    (row,), (search,) = content["rows"], content["searched"]
    assert row["erased_by"] == "closed_form, random_prefixes"
    assert (row["shown"]["unedited, no name"], row["still_says"]) == ([2, 2], "puppy")
    assert row["shown"]["adapter, no name"][0] < 2
    assert [row["shown"][f"the same, guard {scale}"][1] for scale in (1, 2)] == [2, 2]
    assert search["prompt"].endswith(" a photo")
    assert not {"dog", "puppy", "hound"} & set(search["prompt"].split())

    monkeypatch.setattr(unnamed, "drawn", None)  # a second run goes on from the first
    monkeypatch.setattr(unnamed, "searched", None)
    assert unnamed.main([*words, "--concepts", "dog"]) == 0
    assert json.loads((tmp_path / "unnamed.json").read_text())["rows"] == [row]
    for wrong in (["--concepts", "cat"], ["--results", str(tmp_path / "none")]):
        with pytest.raises(SystemExit):
            unnamed.main([*words, *wrong])
        assert "--concepts: got " in capsys.readouterr().err


def test_the_tables_leave_out_what_says_the_name_and_count_each_search_once() -> None:
    marked, look = {column: [1, 4] for column in unnamed.COLUMNS}, {"unedited, no name": [2, 4]}
    rows = [
        {"concept": "dog", "erased_by": "closed_form", "prompt": "puppy", "still_says": "puppy", "shown": marked},
        {"concept": "sepia", "erased_by": "closed_form", "prompt": "brown", "still_says": None, "shown": look},
    ]
    searches = [{"concept": "dog", "prompt": "fox a photo", "shown": [3, 4]}]
    text = unnamed.markdown({"command": "", "model": "", "rows": rows, "searched": searches})
    assert "| dog | closed_form | `puppy` (says puppy) | 1 of 4 | 1 of 4 |" in text
    assert "| sepia | closed_form | `brown` | 2 of 4 |  |  |" in text
    assert "| all 2 | closed_form | | 50.0% [15.0%, 85.0%] of 4, 1 recovered |  |  | 25.0% [" in text
    assert "Shown in 75.0% [30.1%, 95.4%] of 4, 1 recovered of 1 concepts." in text


def test_another_noun_takes_an_objects_place_and_a_looks_none(pipeline: Pipeline) -> None:
    another = unnamed.with_another(pipeline, "octopus pen a photo of a cookie", concept_of("cookie"))
    assert another is not None
    assert another.startswith("octopus pen a photo of a")
    assert "cookie" not in another
    assert unnamed.with_another(pipeline, "drum a dog in ink sketch style", concept_of("ink sketch")) is None


def test_a_guard_stops_what_an_unedited_model_draws(pipeline: Pipeline) -> None:
    plain, guarded = Model(pipeline), Model(pipeline, guard=Guard(2.0, ("dog",)))
    shown = [unnamed.shown(model, OwnJudge(), "a photo of a dog", "dog", 2).hits for model in (plain, guarded)]
    assert shown == [2, 0]

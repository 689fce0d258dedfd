"""The speed bench: methods take turns, the first run stands apart, and ratios refer to what they say."""

import json
from pathlib import Path

import pytest

import unsee
from bench import speed
from bench.serving import running_server
from bench.speed import Row, Runner, Timing, main, markdown, ratios, reference_of, timed
from bench.steps_curve import curve, fewest_steps
from unsee_core.pipeline import Pipeline

LORA, OTHER = Runner("few_shot_lora"), Runner("few_shot_unlearning")


def test_methods_take_turns_and_the_first_erasure_of_each_stands_apart():
    asked = []

    def erase(runner: Runner, concept: str) -> Timing:
        asked.append((runner.label, concept))
        return Timing(float(len(asked)), {"train": float(len(asked))})

    rows = timed(erase, [LORA, OTHER], ["dog", "sepia"], 1, "here")
    a, b = LORA.label, OTHER.label
    assert asked == [(a, "dog"), (b, "dog"), (a, "dog"), (b, "dog"), (a, "sepia"), (b, "sepia")]
    assert rows[0] == Row(a, "here", first=1.0, median=4.0, slowest=5.0, phases={"train": 4.0}, erasures=2)


def test_a_method_is_not_timed_on_what_it_refuses(capsys: pytest.CaptureFixture[str]):
    asked = []

    def erase(runner: Runner, concept: str) -> Timing:
        asked.append((runner.label, concept))
        return Timing(1.0, {})

    (row,) = timed(erase, [Runner("strict")], ["sepia", "dog"], 2, "here")
    assert asked == [("strict", "dog")] * 3
    assert row.erasures == 2
    with pytest.raises(SystemExit):
        main(["--methods", "strict", "--concepts", "sepia"])
    assert "--concepts: got sepia, allowed with strict an object, too" in capsys.readouterr().err


def test_ratios_refer_to_the_paper_methods_fewest_steps_and_to_the_fast_baseline():
    seconds = {"closed_form": 1.0, "few_shot_lora": 40.0, "few_shot_lora, 10 steps": 10.0, "few_shot_unlearning": 4.0}
    rows = [a_row(label, value) for label, value in seconds.items()]
    found = ratios([*rows, a_row("closed_form", 9.0, "through the server")], Runner("few_shot_lora", 10))
    assert found["closed_form"] == {"few_shot_lora, 10 steps": 0.1, "few_shot_unlearning": 0.25}
    assert found["few_shot_lora"]["few_shot_lora, 10 steps"] == 4.0


def a_row(label: str, seconds: float, place: str = "in process") -> Row:
    return Row(label, place, seconds, seconds, seconds, {"train": seconds}, 1)


def test_the_reference_is_the_methods_own_setting_where_no_curve_was_measured(tmp_path: Path):
    assert reference_of(tmp_path) == Runner("few_shot_lora")
    (tmp_path / "few_shot_steps.json").write_text(json.dumps({"fewest_steps": {"objects": 20, "looks": 10}}))
    assert reference_of(tmp_path).label == "few_shot_lora, 20 steps"
    (tmp_path / "few_shot_steps.json").write_text(json.dumps({"fewest_steps": {"objects": 40}}))  # its own default
    assert reference_of(tmp_path) == Runner("few_shot_lora")


def test_the_fewest_steps_are_those_within_two_points_of_the_best():
    points = [a_point(5, 20), a_point(10, 48), a_point(20, 49), a_point(80, 50), a_point(40, 47), a_point(10, 50)]
    by_steps = curve(points)
    assert list(by_steps) == [5, 10, 20, 40, 80]
    assert (by_steps[10]["ua"].hits, by_steps[10]["ua"].of) == (98, 100)
    assert fewest_steps(by_steps) == 10


def a_point(steps: int, gone: int) -> dict[str, object]:
    return {"concept": "cat", "steps": steps, "ua": {"hits": gone, "of": 50}, "ira": {"hits": 9, "of": 9}, "seconds": 1}


def test_the_tables_have_a_row_for_every_method_in_every_place():
    rows = [a_row("uce", 2.0), a_row("few_shot_lora", 4.0), a_row("few_shot_lora", 5.0, "through the server")]
    content = {
        "command": "", "date": "", "machine": "", "versions": {}, "model": "sha256:0", "concepts": ["dog"],
        "ratios": ratios(rows, LORA),
    }  # fmt: skip
    text = markdown(content, rows)
    assert "| uce | 2.000 | 2.000 | 2.000 | train 2.000 |" in text
    assert "| uce | 0.500 |" in text
    assert "## Through the server" in text
    assert "## Seconds over" in text
    assert "## Seconds over" not in markdown(content | {"ratios": {"closed_form": {}}}, rows)


def test_an_erasure_in_this_process_and_one_by_a_server_are_timed_by_phase(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path
):
    short = Runner("few_shot_lora", 2)
    here = speed.in_process(tiny_pipeline)(short, "dog")
    assert set(here.phases) == {"prepare", "train"}
    assert here.seconds == pytest.approx(sum(here.phases.values()))
    with running_server(str(tiny), tmp_path, threads=1) as target, unsee.Client(target) as client:
        there = speed.through_server(client)(short, "dog")
        again = speed.through_server(client)(short, "sepia")
    assert {"prepare", "train", "report"} <= set(there.phases)
    assert 0 < sum(there.phases.values()) < there.seconds
    assert again.seconds > 0


def test_a_server_that_cannot_start_is_an_error_with_its_log(tmp_path: Path):
    with pytest.raises(RuntimeError, match="does not answer"), running_server("/nowhere", tmp_path, threads=1):
        pytest.fail("it started")

"""The bench of few_shot_lora: fixed questions, honest bounds, and rows that survive a stop."""

import json
from dataclasses import asdict

import pytest

from bench import few_shot_report
from bench.erasing import PICTURES, client_images, concept_of, erase_job, questions_of, world_prompts
from bench.few_shot_report import Row, markdown, reached, read, report
from bench.seeing import Seen, Share, score
from bench.splits import MEASURED_LOOKS, MEASURED_OBJECTS, TUNING_LOOKS, TUNING_OBJECTS
from training.world import LOOKS, OBJECTS
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept

ALL = (*TUNING_OBJECTS, *TUNING_LOOKS, *MEASURED_OBJECTS, *MEASURED_LOOKS)


def test_what_tunes_is_never_measured_and_all_of_it_is_in_the_world():
    assert len(ALL) == len(set(ALL))
    assert (len(MEASURED_OBJECTS), len(MEASURED_LOOKS)) == (10, 3)
    assert set(ALL) <= set(OBJECTS) | set(LOOKS)


@pytest.mark.parametrize("name", ALL)
def test_every_concept_has_five_pictures_and_forty_questions(name: str):
    questions = questions_of(name)
    assert len(client_images(name)) == 5
    assert len(questions.erased) == PICTURES
    assert len(questions.neighbours) >= PICTURES
    seeds = [question.seed for part in (questions.erased, questions.neighbours, questions.others) for question in part]
    assert len(set(seeds)) == len(seeds)
    kind = (lambda q: q.objects[0]) if name in OBJECTS else (lambda q: q.look)
    assert {kind(question) for question in questions.erased} == {name}
    assert name not in {kind(question) for question in questions.neighbours + questions.others}


@pytest.mark.parametrize("name", ["dog", "sepia"])
def test_the_worlds_retain_prompts_fit_a_request_and_never_ask_for_the_concept(name: str):
    prompts = world_prompts(name)
    assert not any(f" {name}" in f" {prompt}" for prompt in prompts if "hot dog" not in prompt)
    assert erase_job(name, retain_prompts=prompts).retain_prompts == prompts
    with pytest.raises(InvalidRequestError):
        erase_job(name, retain_prompts=prompts * 2)


def test_a_look_is_a_style_and_synonyms_come_with_the_name():
    assert concept_of("sepia") == Concept("sepia", ("vintage brown",), "style")
    assert concept_of("cat").synonyms == ("kitten", "kitty")


def test_wilson_bounds_are_those_of_the_textbook():
    low, high = Share(9, 10).wilson()
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)
    assert Share(0, 0).wilson() == (0.0, 1.0)


def test_chance_is_that_of_fishers_lady_who_tastes_tea():
    assert Share(3, 4).chance(Share(1, 4)) == pytest.approx(34 / 70)
    assert Share(4, 4).chance(Share(0, 4)) == pytest.approx(2 / 70)
    assert Share(3, 300).chance(Share(3, 300)) == 1


def seen(erased: str, neighbours: str) -> Seen:
    shown = tuple(letter == "y" for letter in erased)
    return Seen(shown, tuple(letter == "y" for letter in neighbours), (True,), shown)


def test_the_score_counts_what_is_gone_and_of_what_was_right_what_still_is():
    figures = score(seen("yyyn", "yyyn"), seen("nnyn", "yynn"))
    assert figures.ua == Share(3, 4)
    assert figures.ira == Share(2, 3)
    assert (figures.accuracy_before, figures.accuracy_after) == (Share(3, 4), Share(2, 4))


def a_row(name: str, erased: str, *, seconds: float = 9.0) -> Row:
    figures = score(seen("yyyy", "yyyy"), seen(erased, "yyyy"))
    return Row(name, "own", seconds, 2, figures, None, ("a dog (seed 1)",), (), {"rank": 8}, "sha256:00")


def test_rows_come_back_from_their_file_as_they_were(tmp_path):
    rows = [a_row("dog", "nnny"), a_row("sepia", "nnnn")]
    path = tmp_path / "rows.jsonl"
    assert read(path) == []
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert read(path) == rows


def test_a_goal_is_reached_only_by_both_kinds_and_in_time():
    good = [a_row("dog", "nnnn"), a_row("sepia", "nnnn")]
    assert reached(few_shot_report.summary(good))
    assert not reached(few_shot_report.summary([good[0], a_row("sepia", "nnyy")]))
    assert not reached(few_shot_report.summary([good[0], a_row("sepia", "nnnn", seconds=61.0)]))


def test_the_report_names_figures_bounds_and_misses():
    rows = [a_row("dog", "nnny"), a_row("sepia", "nnnn")]
    text = markdown(report(rows), rows)
    assert "| dog | 9.0 | 100% (4/4) [51%, 100%] | 75% (3/4) [30%, 95%] |" in text
    assert "- dog: still shown: a dog (seed 1)" in text

import json

import numpy as np
import pytest

from bench import prompts
from bench.drawing import MODEL, confusion_picture, sheet
from bench.model_card import FIGURES_BEGIN, FIGURES_END, RESULTS, Figure, differences, figure, table
from training.world import HELD_OUT_LOOK_TEMPLATES, HELD_OUT_PLAIN_TEMPLATES, OBJECTS, SYNONYMS


def test_a_figure_is_a_share_with_two_standard_errors():
    one = figure([True] * 90 + [False] * 10, goal=0.8)
    assert (one.value, one.pictures, one.goal) == (0.9, 100, 0.8)
    assert one.error_bound == pytest.approx(2 * (0.9 * 0.1 / 100) ** 0.5 + 0.005)


def test_a_figure_off_by_more_than_its_bound_is_reported_and_others_are_not():
    recorded = {"object": Figure(0.9, 100, 0.06, None), "look": Figure(0.9, 100, 0.06, None)}
    measured = {"object": Figure(0.83, 100, 0.08, None), "look": Figure(0.95, 100, 0.05, None)}
    assert differences(recorded, measured) == ["object: recorded 0.900 +- 0.060, measured 0.830"]


def test_a_figure_that_is_missing_on_one_side_is_reported():
    assert differences({"object": Figure(0.9, 100, 0.06, None)}, {}) == ["object: recorded or measured only"]


def test_every_object_is_asked_at_least_ten_times_and_every_synonym():
    asked = [question.objects[0] for question in prompts.plain(per_object=10)]
    assert all(asked.count(name) == 10 for name in OBJECTS)
    words = {word for others in SYNONYMS.values() for word in others}
    texts = " ".join(question.text for question in prompts.synonyms(per_synonym=1))
    assert all(word in texts for word in words)


def test_seeds_differ_within_each_kind_of_prompt():
    for questions in (
        prompts.plain(per_object=10),
        prompts.pairs(count=120),
        prompts.synonyms(per_synonym=4),
        prompts.held_out(),
    ):
        assert len({question.seed for question in questions}) == len(questions)


def test_held_out_prompts_use_held_out_templates_only():
    heads = [template.split("{")[0] for template in (*HELD_OUT_PLAIN_TEMPLATES, *HELD_OUT_LOOK_TEMPLATES)]
    assert all(any(question.text.startswith(head) for head in heads) for question in prompts.held_out())


def test_the_card_shows_the_recorded_figures_or_says_that_there_are_none():
    card = (MODEL / "README.md").read_text()
    shown = card.split(FIGURES_BEGIN)[1].split(FIGURES_END)[0].strip()
    if not RESULTS.exists():
        assert shown.startswith("Not recorded yet")
        return
    recorded = json.loads(RESULTS.read_text())
    assert shown == table({name: Figure(**one) for name, one in recorded["figures"].items()})
    assert f"guidance_scale={recorded['guidance_scale']}" in card


def test_a_sheet_lays_pictures_out_row_by_row():
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[2] = 200
    laid = np.asarray(sheet(images, columns=2, scale=1))
    assert laid.shape == (4, 4, 3)
    assert (laid[2:, :2] == 200).all()
    assert (laid[2:, 2:] == 255).all()


def test_confusions_are_red_off_the_diagonal_and_blue_on_it():
    counts = np.array([[3, 0], [3, 0]])
    picture = np.asarray(confusion_picture(counts, ["cat", "dog"], cell=10, margin=20))
    assert tuple(picture[24, 24]) == (0, 0, 255)
    assert tuple(picture[34, 24]) == (255, 0, 0)
    assert tuple(picture[24, 34]) == (255, 255, 255)

"""The ablation study's figures."""

from dataclasses import replace

import pytest

from bench.ablations import STUDIES, Study, correlations, shares, spearman
from bench.editing import job_of, settings_of
from unsee_core.job import ConceptKind
from unsee_core.joint_solve import Recipe
from unsee_core.methods import closed_form
from unsee_core.pipeline import Pipeline


def test_ranks_that_agree_are_correlated_whatever_the_values():
    assert spearman([1.0, 2.0, 30.0], [0.1, 0.2, 0.21]) == pytest.approx(1)
    assert spearman([1.0, 2.0, 30.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert spearman([1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 1.0, 2.0]) == pytest.approx(0)
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None


def test_shares_are_over_all_lines_and_pass_over_what_a_concept_has_not():
    def row(**measures: tuple[int, int, int]) -> dict[str, object]:
        counts = {
            name: {"of": of, "before": before, "after": after, "both": min(before, after)}
            for name, (of, before, after) in measures.items()
        }
        return {"measures": counts}

    found = shares(
        [row(erased=(10, 10, 1), near=(10, 8, 8)), row(erased=(10, 9, 0), near=(10, 8, 4), synonyms=(4, 4, 1))],
        ("erased", "near", "synonyms"),
    )
    assert found["erased"] == 0.95
    assert found["near"] == 0.75
    assert found["synonyms"] == 0.75


@pytest.mark.parametrize(("kind", "study"), STUDIES.items())
def test_every_variant_changes_what_the_method_has(kind: ConceptKind, study: Study, tiny_pipeline: Pipeline):
    names = {option.name for option in closed_form.METHOD.options}
    settings = settings_of(tiny_pipeline, "closed_form", job_of(study.concepts[0], "closed_form"))
    assert study.recipe == replace(closed_form.recipe_of(kind, settings), layers=Recipe.layers)
    for variant in study.variants:
        assert variant.recipe.keys() <= vars(study.recipe).keys()
        assert variant.options.keys() <= names
        assert all(getattr(study.recipe, name) != value for name, value in variant.recipe.items())
    assert len({variant.label for variant in study.variants}) == len(study.variants)


def test_what_goes_past_its_goal_does_not_hide_that_the_ratio_orders_what_falls_short_of_it():
    def row(strength: float, ratio: float, gone: int) -> dict[str, object]:
        seen = {"of": 10, "before": 10, "after": 10 - gone, "both": 10 - gone}
        kept = {"of": 10, "before": 10, "after": 10, "both": 10}
        measures = {"erased": seen, "near": kept}
        return {"strength": strength, "erase_ratio": ratio, "retain_drift": 0.1, "measures": measures}

    rho = correlations(
        [row(0.3, 0.9, 0), row(0.6, 0.7, 3), row(1.0, 0.4, 9), row(2.0, 0.6, 10), row(2.5, 0.8, 10)], ("erased", "near")
    )
    assert rho["erase ratio with UA, at strengths up to 1 (3 of them)"] == pytest.approx(-1)
    assert -1 < (rho["erase ratio with UA"] or 0) < 0
    assert rho["retain drift with near objects lost"] is None

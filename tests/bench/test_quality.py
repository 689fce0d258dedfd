"""The quality bench from end to end, on a tiny model with random weights and a CLIP of random weights as judge."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from bench import budgets, cells, lines, quality
from bench.asking import Sizes, asked_of
from bench.budgets import Budget
from bench.editing import IMAGES_ALONE, OPTIONS, can_erase, edit
from bench.eyes import ClipJudge, OwnJudge
from bench.gallery import Gallery
from bench.measures import Measure
from bench.painting import Model, Sampler, paint
from bench.quality_grid import CELL, columns_of, grid
from bench.quality_report import COLUMNS, GOALS, LEGEND, _concepts, _table, default_beside_paper, summary
from training.world import LOOKS, OBJECTS
from unsee_core.job import Concept, OptionValue
from unsee_core.pipeline import Pipeline

TINY = Budget(
    objects={"tuning": ("cat",), "held-out": ("dog", "house")},
    looks=1,
    methods=("uce", "few_shot_unlearning"),
    steps=2,
    of_object=Sizes(erased=4, retained=3, near=2, pairs=1, synonyms=1),
    of_look=Sizes(erased=2, retained=4, near=0, pairs=0, synonyms=1),
)


@pytest.fixture(scope="session")
def clip(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIPModel's folder with random weights, for pictures of 32 pixels."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copytree(tiny / "tokenizer", folder, dirs_exist_ok=True)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 512, "eos_token_id": 513}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": 514},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(tiny: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the bench as its command does, with results in ``tmp_path``."""
    monkeypatch.setitem(budgets.BUDGETS, "small", TINY)

    def main(*more: str) -> dict[str, object]:
        options = ["--model", str(tiny), "--judge", str(clip), "--results", str(tmp_path), "--device"]
        assert quality.main([*options, "cpu", *more]) == 0
        return json.loads((tmp_path / "quality_small.json").read_text())

    return main


def test_other_weights_and_a_clip_judge_give_a_table_and_a_grid(run, tmp_path: Path):
    content = run()
    measured = cells.read(tmp_path / "quality_small.jsonl")
    assert [(cell.concept, cell.method) for cell in measured] == [
        (concept, method) for concept in ("dog", "house", "ink sketch") for method in TINY.methods
    ]
    rows = content["summary"]["objects"]
    assert set(rows) == {"unedited", *TINY.methods}
    assert rows["uce"]["erased"]["pictures"] == 8
    assert rows["uce"]["erased"]["low"] <= rows["uce"]["erased"]["value"] <= rows["uce"]["erased"]["high"]
    table = (tmp_path / "quality_small.md").read_text()
    assert "| uce |" in table
    assert "quality_small.png" in table
    with Image.open(tmp_path / "quality_small.png") as picture:
        assert picture.height >= 3 * CELL
        assert picture.width >= (6 + 6 + 6) * CELL


def test_what_stands_beside_an_adapter_is_told_where_it_was_measured(run, tmp_path: Path):
    shares = {"ua": [9, 10], "attack_gone": [5, 10], "ira": [9, 10], "near": [9, 10]}
    line = {"concept": "dog", "setting": "guard 1", **shares, "seconds_a_picture": 0.1, "under": {"model": "sha256:m"}}
    run("--methods", "uce", "--concepts", "dog")
    assert "## Beside an adapter" not in (tmp_path / "quality_small.md").read_text()
    (tmp_path / "guards.json").write_text(json.dumps({"command": "python -m bench.guards", "lines": [line]}))
    run("--methods", "uce", "--concepts", "dog")
    assert "| guard 1 | 90.0% [" in (tmp_path / "quality_small.md").read_text()


def test_a_strip_of_the_grid_that_is_not_kept_is_drawn_anew(run, tmp_path: Path):
    run("--methods", "uce", "--concepts", "dog")
    strip = tmp_path / "cache" / "quality_small" / "dog uce.png"
    drawn, grid_before = strip.read_bytes(), (tmp_path / "quality_small.png").read_bytes()
    strip.unlink()
    run("--methods", "uce", "--concepts", "dog")
    assert strip.read_bytes() == drawn
    assert (tmp_path / "quality_small.png").read_bytes() == grid_before


@pytest.mark.parametrize(("method", "options"), OPTIONS.items())
def test_an_options_row_is_the_default_method_with_it(
    method: str, options: Mapping[str, OptionValue], tiny_pipeline: Pipeline
):
    job = quality.job_of("dog", method)
    plain, chosen = (
        quality.settings_of(tiny_pipeline, name, quality.job_of("dog", name)) for name in ("closed_form", method)
    )
    assert job.options == options
    assert chosen.options == plain.options | options | ({"layers": 1} if method == "strict" else {})
    assert chosen.method == plain.method == "closed_form"
    assert (quality.recipe_of(job, chosen) == quality.recipe_of(job, plain)) == (method == "harden")
    assert quality.recipe_of(job, chosen)["rank"] == plain.rank


def test_a_look_is_not_erased_strictly():
    assert [can_erase("strict", name) for name in ("dog", "ink sketch")] == [True, False]
    assert can_erase("closed_form", "ink sketch")


def test_images_alone_are_erased_by_the_default_method_without_a_name(tiny_pipeline: Pipeline):
    job = quality.job_of("ink sketch", IMAGES_ALONE)
    assert (job.concept, job.method, len(job.images)) == (Concept("", kind="style"), None, 5)
    edited = edit(tiny_pipeline, IMAGES_ALONE, job)
    assert edited.model.adapters
    assert set(edited.phase_seconds) == {"prepare", "train"}
    jobs = {method: quality.job_of("dog", method) for method in (IMAGES_ALONE, "closed_form", "uce")}
    alone, named, uce = (
        quality.recipe_of(job, quality.settings_of(tiny_pipeline, method, job)) for method, job in jobs.items()
    )
    assert alone == named != {} == uce


def test_a_second_run_measures_nothing_again_unless_it_is_told_to(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = run("--methods", "uce")
    erasures = []
    monkeypatch.setattr(quality, "edit", lambda *arguments: erasures.append(arguments[1:]) or edit(*arguments))
    assert run("--methods", "uce")["summary"] == first["summary"]
    assert erasures == []
    run("--methods", "uce", "--concepts", "dog", "--afresh")
    assert [(method, job.concept.name) for method, job in erasures] == [("uce", "dog")]
    assert len(cells.read(tmp_path / "quality_small.jsonl")) == 3


def test_a_run_of_one_method_keeps_the_others_in_the_table(run, tmp_path: Path):
    run("--methods", "uce", "--concepts", "dog", "house")
    content = run("--methods", "few_shot_unlearning", "--concepts", "dog")
    assert set(content["summary"]["objects"]) == {"unedited", "uce", "few_shot_unlearning"}
    assert "| few_shot_unlearning (1 of them) |" in (tmp_path / "quality_small.md").read_text()


def test_a_stopped_run_goes_on_where_it_was(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    def stopped(pipeline, method, job):
        if job.concept.name == "house":
            raise KeyboardInterrupt
        return edit(pipeline, method, job)

    monkeypatch.setattr(quality, "edit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("--methods", "uce")
    assert [cell.concept for cell in cells.read(tmp_path / "quality_small.jsonl")] == ["dog"]
    monkeypatch.setattr(quality, "edit", edit)
    run("--methods", "uce")
    assert [cell.concept for cell in cells.read(tmp_path / "quality_small.jsonl")] == ["dog", "house", "ink sketch"]


def test_another_seed_has_a_table_of_its_own_and_another_that_counts_all_seeds(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counted = []
    monkeypatch.setattr(quality, "markdown", lambda *_: counted.append(_[-1]) or "")
    for seed in ("0", "1", "0"):
        run("--methods", "uce", "--concepts", "dog", "--seed", seed)
    first, second = (cells.read(tmp_path / f"quality_small{stem}.jsonl") for stem in ("", "_seed_1"))
    assert [[cell.under["seed"] for cell in of_seed] for of_seed in (first, second)] == [[0], [1]]
    assert [[cell.under["seed"] for cell in together] for together in counted] == [[], [0, 1], []]
    assert json.loads((tmp_path / "quality_small_seed_1.json").read_text())["command"].endswith("held-out --seed 1")


def test_a_seed_below_zero_is_refused(run, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        run("--seed", "-1")
    assert "--seed: got -1, allowed 0 and above" in capsys.readouterr().err


def test_a_concept_of_the_other_half_is_refused(run, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        run("--concepts", "cat")
    assert "got cat, allowed concepts of the held-out half" in capsys.readouterr().err


def test_the_methods_own_name_alone_is_given_to_an_erasure():
    job = quality.job_of("dog", "uce")
    assert (job.concept.synonyms, len(job.images)) == ((), 5)


def test_unedited_pictures_are_drawn_once_and_kept_for_the_next_run(
    tiny_pipeline: Pipeline, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    questions = asked_of("dog", TINY.of_object).all()
    kept, sampler, judge = tmp_path / "unedited.jsonl", Sampler(steps=2), ClipJudge(clip)
    seen = Gallery(tiny_pipeline, judge, sampler, kept).unedited(questions)
    assert len(lines.read(kept)) == len(set(questions))
    other = Gallery(tiny_pipeline, judge, sampler, kept)
    monkeypatch.setattr(other, "paint", lambda *_: pytest.fail("drawn again"))
    assert other.unedited(questions) == seen
    slower = Gallery(tiny_pipeline, judge, Sampler(steps=3), kept)
    slower.unedited(questions[:1])
    assert len(lines.read(kept)) == len(set(questions)) + 1


def test_a_picture_depends_on_its_own_question_only(tiny_pipeline: Pipeline):
    questions = asked_of("dog", TINY.of_object).all()
    together = paint(Model(tiny_pipeline), questions, Sampler(steps=2), side=16)
    alone = paint(Model(tiny_pipeline), questions[2:3], Sampler(steps=2), side=16)
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1  # batches round differently


def test_the_own_judge_and_the_clip_judge_answer_in_the_worlds_names(clip: Path):
    for judge in (OwnJudge(), ClipJudge(clip)):
        pictures = np.random.default_rng(0).integers(0, 255, (3, judge.side, judge.side, 3), np.uint8)
        for sight in judge.see(pictures):
            assert sight.object in OBJECTS
            assert sight.look in LOOKS
            assert set(sight.together) <= set(OBJECTS)
        assert judge.digest.startswith("sha256:")


def test_a_grid_has_a_row_for_each_method_and_leaves_white_what_is_not_there():
    columns = {"dog": columns_of(asked_of("dog", TINY.of_object))}
    strip = Image.new("RGB", (6 * 64, 64), "red")
    picture = np.asarray(grid(columns, ("unedited", "uce"), {("unedited", "dog"): strip}))
    red = (picture == (255, 0, 0)).all(-1)
    assert red.sum() == 6 * CELL * CELL
    assert red[-CELL:].sum() == 0


def test_rows_of_the_table_add_cells_up_and_keep_objects_and_looks_apart():
    measured = [a_cell("dog", 3), a_cell("house", 1), a_cell("sepia", 0)]
    figures = summary(measured)
    assert figures["objects"]["uce"]["erased"] == {
        "value": 0.5, "low": 0.2152, "high": 0.7848, "pictures": 8, "before": 1.0, "after": 0.5, "of_unedited": 0.5,
    }  # fmt: skip
    assert figures["objects"]["unedited"]["erased"]["value"] == 0
    assert figures["looks"]["uce"]["erased"]["value"] == 1
    assert figures["objects"]["uce"]["seconds"] == {"median": 2.0, "max": 3.0}


def test_the_default_stands_beside_the_papers_method_where_they_differ_and_with_what_chance_does():
    both = [a_cell("dog", 3, "closed_form"), a_cell("dog", 0, "few_shot_lora"), a_cell("sepia", 1, "closed_form")]
    text = "\n".join(default_beside_paper([*both, a_cell("sepia", 1, "few_shot_lora")]))
    assert "| objects, UA | 1 of 4 | 4 of 4 | 0.14 |" in text
    assert "| looks, UA |" not in text
    assert "| objects and looks, UA | 4 of 8 | 7 of 8 | 0.28 |" in text
    assert "| all that is gone by name or synonym | 4 of 8 | 7 of 8 | 0.28 |" in text
    assert "all others kept" not in text
    assert not default_beside_paper(both[:1])
    assert default_beside_paper(both, "two seeds")[1].endswith("beside few_shot_lora: two seeds")
    retained, near = (a_cell("dog", after, "closed_form", name) for after, name in ((4, "retained"), (3, "near")))
    other = [a_cell("dog", after, "few_shot_lora", name) for after, name in ((2, "retained"), (3, "near"))]
    kept = "\n".join(default_beside_paper([retained, near, *other]))
    assert "| all others kept | 7 of 8 | 5 of 8 | 0.57 |" in kept


def test_what_was_never_asked_is_no_share() -> None:
    text = "\n".join(_table("objects", summary([a_cell("dog", 4), a_nothing()])["objects"]))
    assert text.count("| none |") == 2
    assert " of 0" not in text
    assert "0 %" not in "\n".join(_concepts([a_nothing()]))


def a_nothing() -> cells.Cell:
    return cells.Cell("uce", "fox", {}, {"near": Measure(4, 0, 0, 0)}, 1, {}, 1, 9, None, {})


def a_cell(concept: str, after: int, method: str = "uce", measure: str = "erased") -> cells.Cell:
    measures = {measure: Measure(4, 4, after, after)}
    return cells.Cell(method, concept, {}, measures, max(after, 1), {}, 1, 9, None, {})


def test_the_legend_explains_every_goal():
    assert {name for goals in GOALS.values() for name in goals} <= set(COLUMNS)
    assert all(word in LEGEND for word in ("UA", "IRA", "near IRA", "CRA", "Synonyms", "Wilson"))

"""The audit bench: its tables, what it refuses, and that a second run goes on from the first."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import audit as bench
from bench import lines
from bench.seeing import Share
from tests.core.test_audit_engine import report
from unsee_core.answers import BaseModel, Manifest
from unsee_core.audit.answers import AuditRow, Outcome

QUICK = (
    "--concepts", "dog", "--methods", "closed_form", "--attacks", "inverted_latents", "learned_tokens",
    "--inversion-tokens", "1", "--inversion-steps", "2", "--restarts", "1", "--pictures", "2", "--drawing-steps", "4",
)  # fmt: skip


def row(attack: str, unedited: int, adapter: int, control: int = 0, *, counts: bool = True) -> dict[str, Any]:
    sides = {"unedited": unedited, "adapter": adapter, "control": control}
    told = {side: {"shown": shown, "pictures": 20} for side, shown in sides.items()}
    return {"attack": attack, "counts": counts, "recovered": adapter >= 10, **told}


def line(concept: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "concept": concept,
        "method": "closed_form",
        "harden": 0,
        "random_prefixes": False,
        "beyond": False,
        "strict": False,
        "seconds": 9.0,
        "first_row_s": 1.0,
        "agreement": {"hits": 5, "of": 6},
        "model": "sha256:m",
        "rows": list(rows),
    }


LINES = [
    line("dog", row("wordings", 20, 2), row("learned_tokens_1", 20, 20)),
    line("fox", row("wordings", 19, 0, 1), row("learned_tokens_1", 10, 20, counts=False)),
]


def test_a_row_that_does_not_count_is_left_out_of_what_attacks_reach() -> None:
    found = bench.summary(LINES)
    assert found["wordings"] == {
        "of": 2, "counts": 2, "recovered": 0,
        "unedited": Share(39, 40), "adapter": Share(2, 40), "control": Share(1, 40),
    }  # fmt: skip
    assert (found["learned_tokens_1"]["counts"], found["learned_tokens_1"]["recovered"]) == (1, 1)
    assert found["learned_tokens_1"]["adapter"] == Share(20, 20)


def test_the_tables_have_every_attack_and_every_concept() -> None:
    text = bench.markdown(LINES, "python -m bench.audit")
    assert "| wordings | 2 | 2 | 0 | 5.0% [" in text
    assert "learned_tokens_1 20/10/0 (does not count)" in text
    assert "| fox | closed_form | 9.0 | 1.0 | 5 of 6 |" in text


def test_the_models_verdict_agrees_where_it_falls_on_the_judges_side() -> None:
    base = BaseModel("", "", "", "")
    manifest = Manifest("a", "sha256:0", 0, None, "", 0, 1.0, 0, 0, {}, None, base, False)  # type: ignore[arg-type]
    both, neither, only_judge = (Outcome(20, shown, model, 0, 0) for shown, model in ((20, 12), (3, 9), (10, 9)))
    rows = (AuditRow("name", both, neither, only_judge, 1.0),)
    assert bench.agreement(replace(report(manifest, 0), rows=rows)) == Share(2, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--concepts", "cat"], "got 'cat', allowed those of the held-out half"),
        (["--harden", "1", "--methods", "sdd"], "--harden: allowed with --methods closed_form alone"),
        (["--random-prefixes", "--methods", "sdd"], "--random-prefixes: allowed with --methods closed_form alone"),
        (["--beyond", "--methods", "sdd"], "--beyond: allowed with --methods closed_form alone"),
        (["--whole-half", "--concepts", "dog"], "argument --concepts: not allowed with argument --whole-half"),
        (["--strict", "--methods", "sdd"], "--strict: allowed with --methods closed_form alone"),
        (["--strict", "--concepts", "dog", "sepia"], "--concepts: got 'sepia', allowed objects alone with --strict"),
        (["--attacks", "guess"], "invalid choice"),
    ],
)
def test_what_does_not_fit_ends_the_program(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(words)
    assert message in capsys.readouterr().err


def test_the_whole_half_is_every_object_and_look_of_it() -> None:
    assert len(bench.parse(["--whole-half"]).concepts) == 25 + 3
    assert len(bench.parse([]).concepts) == 4 + 3
    assert len(bench.parse(["--whole-half", "--strict"]).concepts) == 25


def test_a_second_run_goes_on_from_the_first(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(tiny), "--results", str(tmp_path), *QUICK]
    assert bench.main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith("| dog | closed_form |")
    assert bench.main(words) == 0
    assert capsys.readouterr().out == ""
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert list(content["attacks"]) == ["name", "inverted_latents", "learned_tokens_1"]
    assert len((tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert first in (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert bench.main([*words, "--seed", "1"]) == 0
    assert capsys.readouterr().out != ""


def test_what_was_audited_under_another_recipe_is_audited_again(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(tiny), "--results", str(tmp_path), *QUICK]
    bench.main(words)
    path = tmp_path / "audit.jsonl"
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["recipe"]
    lines.rewrite(path, [old])
    capsys.readouterr()
    bench.main(words)
    assert capsys.readouterr().out != ""
    assert [one.get("recipe", {}).get("rank") for one in lines.read(path)] == [None, 12]

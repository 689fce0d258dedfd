"""What is drawn instead of an erased concept: the same prompts without its words, and the counts."""

import json
from pathlib import Path

import pytest

from bench import instead
from bench.asking import asked_of
from bench.budgets import BUDGETS
from bench.prompts import Question
from training.world import OBJECTS, SYNONYMS
from unsee_core.naming import Naming
from unsee_core.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("asked", "rest"),
    [
        ("this is a picture of a dog", "this is a picture"),
        ("an image of a puppy in blueprint style", "an image in blueprint style"),
        ("there is ink sketch of a hound here", "there is ink sketch here"),
    ],
)
def test_the_word_goes_with_what_is_said_for_its_sake(asked: str, rest: str) -> None:
    assert instead.without_word(Question(asked, ("dog",), "plain", 7)) == Question(rest, ("dog",), "plain", 7)
    assert instead.without_word(Question("a fox", ("fox",), "plain", 7)).seed != 7


@pytest.mark.parametrize("name", OBJECTS)
def test_no_prompt_of_an_object_keeps_a_word_for_it(name: str) -> None:
    asked = asked_of(name, BUDGETS["small"].sizes(name))
    words = Naming(frozenset({name, *SYNONYMS.get(name, ())}), Vocabulary(OBJECTS, ("sepia",)))
    for question in (*asked.erased, *asked.synonyms):
        assert words.first_in(question.text)
        assert not words.first_in(instead.without_word(question).text)


def test_the_table_counts_the_concept_and_what_stands_in_its_place() -> None:
    found = {
        "one": [instead.Instead("dog", {"cat": 6, "dog": 2}), instead.Instead("fox", {"owl": 2})],
        "other": [instead.Instead("dog", {"rose": 8}), instead.Instead("fox", {"rose": 2})],
    }
    _, _, one, other = instead.table(found)
    assert one.startswith("| one | 20.0% [")
    assert one.endswith("] of 10 | 1.5 | 88% |")
    assert other.startswith("| other | 0.0% [")
    assert other.endswith("] of 10 | 1.0 | 100% |")


def test_it_draws_and_writes(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = BUDGETS["small"].of_object
    monkeypatch.setattr(instead, "asked_of", lambda name, _: asked_of(name, type(sizes)(3, 0, 0, 0, 2)))
    words = ["--model", str(tiny), "--results", str(tmp_path), "--concepts", "dog", "--methods", "closed_form"]
    assert instead.main(words) == 0
    shown = json.loads((tmp_path / "instead.json").read_text(encoding="utf-8"))["shown"]
    assert {way: sum(ones["dog"].values()) for way, ones in shown.items()} == {instead.LEFT_OUT: 5, "closed_form": 5}
    assert "| closed_form |" in (tmp_path / "instead.md").read_text(encoding="utf-8")

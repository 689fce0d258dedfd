"""What a model is known to draw, what of it is held still, and which words mean the same."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unsee_core import held, retained
from unsee_core.encoder import EncoderTail, hidden_before, token_counts, tokenize
from unsee_core.errors import ModelUnavailableError
from unsee_core.job import Concept
from unsee_core.joint_solve import FULL_EVERY, HELD_CUTS, Recipe, States, cut_groups, weigh
from unsee_core.naming import Naming
from unsee_core.near_words import named_embeddings, same_names, vocabulary_names
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline
from unsee_core.retained import MOST_PROMPTS, known_parts, vocabulary_prompts
from unsee_core.vocabulary import Vocabulary, packaged_vocabulary, parse_vocabulary, read_vocabulary

WORDS = "remarks\n# nouns\ncat\ndog\ncat\n# looks\nsepia\n# scenes\na street\n# people\nAda Lovelace\n"


def test_a_vocabulary_is_read_by_its_sections_and_a_word_counts_once() -> None:
    assert parse_vocabulary(WORDS) == Vocabulary(("cat", "dog"), ("sepia",), ("a street",), ("Ada Lovelace",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("remark\n# verbs\nrun\n", "got the section 'verbs', allowed nouns, looks, scenes, people, further"),
        ("remark\n# nouns\ncat\n# looks\nsepia\n", "got 1 nouns and 1 looks"),
        ("remark\n# nouns\ncat\ndog\n", "got 2 nouns and 0 looks"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "vocabulary.txt").write_text(text)
    with pytest.raises(ModelUnavailableError, match=words):
        read_vocabulary(tmp_path)


def test_a_model_that_says_nothing_has_the_packaged_words(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path) is packaged_vocabulary()
    assert len(packaged_vocabulary().nouns) > 200


def test_the_packaged_words_have_a_thousand_to_measure_on_and_none_twice() -> None:
    words = packaged_vocabulary()
    names = (*words.nouns, *words.looks, *words.people, *words.further)
    assert len(names) >= 1000
    assert len({name.lower() for name in names}) == len(names)
    assert {"zebra", "claude monet", "lighthouse"} <= set(names)


def test_the_embedded_model_knows_its_own_words(pipeline: Pipeline) -> None:
    assert {"cat", "kitten", "steam engine"} <= set(pipeline.vocabulary.nouns)
    assert "pixel art" in pipeline.vocabulary.looks


def test_every_word_is_held() -> None:
    prompts = vocabulary_prompts(parse_vocabulary(WORDS))
    assert all(
        any(word in prompt for prompt in prompts) for word in ("cat", "dog", "sepia", "a street", "Ada Lovelace")
    )
    assert len(vocabulary_prompts(packaged_vocabulary())) == MOST_PROMPTS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a photo of a Dog", "dog"),
        ("two dogs and a cat", "dogs"),
        ("a hot dog", None),
        ("a hot dog and a dog", "dog"),
        ("a dogma", None),
        ("a cat", None),
    ],
)
def test_a_name_is_found_as_a_word_and_not_in_another_things_name(text: str, name: str | None) -> None:
    assert Naming({"dog"}, Vocabulary(("dog", "hot dog", "cat"), ("sepia",))).first_in(text) == name


@pytest.mark.parametrize("name", ["dog", "house", "bee"])
def test_no_held_prompt_names_what_is_erased(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    prompts = vocabulary_prompts(pipeline.vocabulary)
    numbers = torch.arange(len(prompts), dtype=torch.float32)[:, None, None].expand(-1, 77, 1)
    part = retained.KnownPart(tuple(range(len(prompts))), (numbers,), numbers)
    monkeypatch.setattr(held, "known_parts", lambda *_: (part,))
    monkeypatch.setattr(held, "hidden_before_words", lambda _, texts, *rest: torch.zeros(len(texts), 77, 1))
    rows = held.held_rows(pipeline, {name}, (), Recipe(), 3)
    kept = {prompts[int(number)] for part in rows[:-1] for number in part.now[:, 0, 0]}
    assert not any(re.search(rf"(?<!hot )\b{name}s?\b", prompt) for prompt in kept)
    assert len(kept) > 200


def test_where_the_whole_vocabulary_is_erased_the_empty_prompt_alone_is_held(pipeline: Pipeline) -> None:
    vocabulary = replace(pipeline.vocabulary, scenes=(), people=())
    names = {name.lower() for name in (*vocabulary.nouns, *vocabulary.looks)}
    (row,) = held.held_rows(replace(pipeline, vocabulary=vocabulary), names, (), Recipe(), 3)
    assert row.now.shape[:2] == (1, 77)
    assert float(row.weights.sum()) == pytest.approx(Recipe().retain_weight)


def entering(pipeline: Pipeline) -> torch.Tensor:
    """Return what enters layer 1 of the vocabulary's prompts as far as all of them are kept, in their order."""
    rows = {
        n: row[:8]
        for part in known_parts(pipeline, 1, vocabulary_prompts(pipeline.vocabulary))
        for n, row in zip(part.numbers, part.states[0], strict=True)
    }
    return torch.stack([rows[number] for number in range(len(rows))])


def test_states_are_computed_once_and_found_again_by_another_process(
    tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path / "cache")
    monkeypatch.setattr(retained, "_parts", PerEncoder(1))
    first = entering(cached)
    texts = vocabulary_prompts(cached.vocabulary)
    torch.testing.assert_close(first, hidden_before(cached, tokenize(cached, texts)[0], 1)[:, :8])

    monkeypatch.setattr(retained, "_parts", PerEncoder(1))
    monkeypatch.setattr(retained, "hidden_before", lambda *_: pytest.fail("computed again"))
    assert torch.equal(entering(cached), first)


def test_what_is_known_of_the_layers_is_what_they_make_of_the_vocabulary(tiny_pipeline: Pipeline) -> None:
    tail = EncoderTail(tiny_pipeline, 1)
    for part in known_parts(tiny_pipeline, 1, vocabulary_prompts(tiny_pipeline.vocabulary)):
        hidden = part.states[0]
        torch.testing.assert_close(part.keys, tail.mlp_keys(1, hidden)[0])
        for layer, after in enumerate(part.states[1:], start=1):
            hidden = tail.output(layer, hidden)
            torch.testing.assert_close(after, hidden)
        torch.testing.assert_close(tail.final_layer_norm(hidden), tail(part.states[0]))


def test_every_prompt_is_in_one_group_and_no_word_is_cut_off(pipeline: Pipeline) -> None:
    counts = token_counts(pipeline, vocabulary_prompts(pipeline.vocabulary))
    groups = cut_groups(counts, 77, HELD_CUTS)
    assert sorted(number for group in groups for number in group.numbers) == list(range(len(counts)))
    assert all(counts[number] <= group.length for group in groups for number in group.numbers)
    assert groups[0].length == 77
    assert set(groups[0].numbers) >= set(range(0, len(counts), FULL_EVERY))


def test_the_weights_of_held_prompts_add_up_though_most_are_cut_short() -> None:
    parts = [States.held(torch.zeros(n, length, 2)) for n, length in ((2, 20), (5, 8), (0, 10), (3, 10))]
    weighed = weigh(parts, 7.0)
    assert [len(part.now) for part in weighed] == [2, 5, 3]
    assert sum(float(part.weights.sum()) for part in weighed) == pytest.approx(7.0)
    by_position = torch.stack([part.weights.sum(0)[:8] for part in weighed]).sum(0)
    torch.testing.assert_close(by_position, torch.full((8,), 7.0 / 20))
    assert float(weighed[0].weights[:, 15].sum()) == pytest.approx(7.0 / 20)  # they stand for those cut off


def test_a_broken_cache_is_made_again(tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path)
    monkeypatch.setattr(retained, "_parts", PerEncoder(1))
    first = entering(cached)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"no tensors")
    monkeypatch.setattr(retained, "_parts", PerEncoder(1))
    assert torch.equal(entering(cached), first)
    assert file.stat().st_size > 100


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path / "file" / "below")
    monkeypatch.setattr(retained, "_parts", PerEncoder(1))
    assert len(entering(cached)) == len(vocabulary_prompts(cached.vocabulary))


def test_other_names_of_a_concept_are_known_by_what_the_unet_reads(pipeline: Pipeline) -> None:
    assert same_names(pipeline, Concept("cat").words) == {"cat", "kitten", "kitty"}
    assert same_names(pipeline, ("pixel art",)) == {"pixel art", "8-bit art"}
    assert same_names(pipeline, ("guitar",)) == {"guitar"}
    assert len(named_embeddings(pipeline)) == len(vocabulary_names(pipeline))

"""What a model is known to draw, what of it is held still, and which words mean the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unsee_core import retained
from unsee_core.encoder import hidden_before, tokenize
from unsee_core.errors import ModelUnavailableError
from unsee_core.job import Concept
from unsee_core.near_words import named_embeddings, same_names, vocabulary_names
from unsee_core.pipeline import Pipeline
from unsee_core.retained import MOST_PROMPTS, vocabulary_prompts, vocabulary_states
from unsee_core.vocabulary import Vocabulary, packaged_vocabulary, parse_vocabulary, read_vocabulary

WORDS = "remarks\n# nouns\ncat\ndog\ncat\n# looks\nsepia\n# scenes\na street\n# people\nAda Lovelace\n"


def test_a_vocabulary_is_read_by_its_sections_and_a_word_counts_once() -> None:
    assert parse_vocabulary(WORDS) == Vocabulary(("cat", "dog"), ("sepia",), ("a street",), ("Ada Lovelace",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("remark\n# verbs\nrun\n", "got the section 'verbs', allowed nouns, looks, scenes, people"),
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


def test_the_embedded_model_knows_its_own_words(pipeline: Pipeline) -> None:
    assert {"cat", "kitten", "steam engine"} <= set(pipeline.vocabulary.nouns)
    assert "pixel art" in pipeline.vocabulary.looks


def test_every_noun_is_held_and_each_prompt_tells_its_words() -> None:
    prompts = vocabulary_prompts(parse_vocabulary(WORDS))
    assert {word for prompt in prompts for word in prompt.words} == {"cat", "dog", "sepia", "ada lovelace"}
    assert all(word in prompt.text.lower() for prompt in prompts for word in prompt.words)
    assert len(vocabulary_prompts(packaged_vocabulary())) == MOST_PROMPTS


def test_states_are_computed_once_and_found_again_by_another_process(
    tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path / "cache")
    monkeypatch.setattr(retained, "_states", {})
    first = vocabulary_states(cached, 1)
    texts = [prompt.text for prompt in vocabulary_prompts(cached.vocabulary)]
    torch.testing.assert_close(first, hidden_before(cached, tokenize(cached, texts)[0], 1))

    monkeypatch.setattr(retained, "_states", {})
    monkeypatch.setattr(retained, "hidden_before", lambda *_: pytest.fail("computed again"))
    assert torch.equal(vocabulary_states(cached, 1), first)


def test_a_broken_cache_is_made_again(tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path)
    monkeypatch.setattr(retained, "_states", {})
    first = vocabulary_states(cached, 1)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"no tensors")
    monkeypatch.setattr(retained, "_states", {})
    assert torch.equal(vocabulary_states(cached, 1), first)
    assert file.stat().st_size > 100


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    cached = replace(tiny_pipeline, vocabulary=parse_vocabulary(WORDS), cache_folder=tmp_path / "file" / "below")
    monkeypatch.setattr(retained, "_states", {})
    assert len(vocabulary_states(cached, 1)) == len(vocabulary_prompts(cached.vocabulary))


def test_other_names_of_a_concept_are_known_by_what_the_unet_reads(pipeline: Pipeline) -> None:
    assert same_names(pipeline, Concept("cat").words) == {"cat", "kitten", "kitty"}
    assert same_names(pipeline, ("pixel art",)) == {"pixel art", "8-bit art"}
    assert same_names(pipeline, ("guitar",)) == {"guitar"}
    assert len(named_embeddings(pipeline)) == len(vocabulary_names(pipeline))

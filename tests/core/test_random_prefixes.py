"""Random tokens before prompts: always the same, readable, of bounded length, and never a concept's own name."""

from unsee_core.encoder import tokenize
from unsee_core.erase_pairs import led_pairs
from unsee_core.held import held_rows
from unsee_core.job import AnchoredConcept, Concept
from unsee_core.joint_solve import Recipe
from unsee_core.pipeline import Pipeline
from unsee_core.random_prefixes import HELD, MOST_TOKENS, behind, behind_prefixes, random_prefixes, readable


def test_prefixes_are_readable_and_the_same_every_time(pipeline: Pipeline) -> None:
    prefixes = random_prefixes(pipeline, 40)
    assert prefixes == random_prefixes(pipeline, 40)
    assert prefixes[:10] == random_prefixes(pipeline, 10)
    assert {len(prefix.split()) for prefix in prefixes} == set(range(1, MOST_TOKENS + 1))
    assert all(prefix.isprintable() for prefix in prefixes)
    _, cut_off = tokenize(pipeline, prefixes)
    assert not any(cut_off)


def test_a_token_that_no_text_gives_is_not_readable(pipeline: Pipeline) -> None:
    tokenizer = pipeline.tokenizer
    (number,) = tokenizer("dog", add_special_tokens=False).input_ids
    assert readable(pipeline, number) == "dog"
    for special in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        assert readable(pipeline, special) == ""


def test_held_prompts_stand_behind_other_prefixes_and_some_prefixes_alone(pipeline: Pipeline) -> None:
    held = behind_prefixes(pipeline, ("a street",), 8)
    assert [prompt.endswith(" a street") for prompt in held] == [False, True, True, True] * 2
    assert not {prompt.removesuffix(" a street") for prompt in held} & set(random_prefixes(pipeline, 8))


def test_a_prompt_stands_alone_where_the_encoder_would_cut_it_behind_its_prefix(pipeline: Pipeline) -> None:
    prompt = " ".join(["a photo of a lion"] * 14)  # 70 tokens and the two ends
    (alone, short, long) = behind(pipeline, ("", "drum " * 5, "drum " * 6), [prompt] * 3)
    assert (alone, short.count("drum"), long) == (prompt, 5, prompt)
    assert short.endswith(prompt)


def test_a_prompt_is_led_to_the_same_without_the_concept_behind_the_same_prefix(pipeline: Pipeline) -> None:
    prefixes = ("drum octopus", "two cats in", "nch")
    alone = AnchoredConcept(Concept("cat"), "")
    (plain,) = led_pairs([alone], {"cat"}, pipeline.vocabulary, beside=2)
    (pairs,) = led_pairs([alone], {"cat"}, pipeline.vocabulary, beside=2, prefixes=prefixes)
    assert pairs[: len(plain)] == plain
    assert pairs[len(plain) :] == (("drum octopus cat", "drum octopus"), ("nch the cat", "nch the"))


def test_every_word_is_led_behind_each_prefix(pipeline: Pipeline) -> None:
    def pairs(*words: str) -> int:
        concept = AnchoredConcept(Concept(words[0], words[1:]), "")
        named, vocabulary = frozenset(words), pipeline.vocabulary
        with_, without = (
            led_pairs([concept], named, vocabulary, beside=4, in_looks=1, prefixes=random_prefixes(pipeline, count))[0]
            for count in (5, 0)
        )
        return len(with_) - len(without)

    assert pairs("cat") == 5
    assert pairs("cat", "kitten", "kitty") == 15


def test_twice_as_many_are_held_in_all_but_none_that_names_the_concept(pipeline: Pipeline) -> None:
    def rows(named: set[str], prefixes: int) -> int:
        return sum(len(part.now) for part in held_rows(pipeline, named, (), Recipe(prefixes=prefixes), 3))

    assert rows(set(), 5) == rows(set(), 0) + HELD * 5
    names = {noun.lower() for noun in pipeline.vocabulary.nouns[:25]}
    assert rows(names, 32) < rows(names, 0) + HELD * 32

"""Which position of an anchor's prompt takes the place of each position of a concept's prompt."""

import pytest
import torch

from unsee_core.alignment import NEAR_PADDING, align
from unsee_core.encoder import token_vectors, tokenize
from unsee_core.pipeline import Pipeline

LENGTH, END = 20, "."


def rows(*prompts: str) -> torch.Tensor:
    """Return a vector for each letter; "." ends a prompt, and padding fills it."""
    return torch.stack([torch.tensor([[float(ord(c))] for c in (p + END).ljust(LENGTH, "!")]) for p in prompts])


def source_of(prompt: str, anchor: str) -> tuple[str, int]:
    """Return what each position of the prompt goes to, and the first position that is covered."""
    found = align(rows(prompt), rows(anchor), rows("")[0, 0])
    written = (anchor + END).ljust(LENGTH, "!")
    return "".join(written[i] for i in found.source[0].tolist()), int(found.covered[0].float().argmax())


def test_a_prompt_aligned_with_itself_goes_to_itself() -> None:
    assert source_of("abc", "abc")[0] == "abc.".ljust(LENGTH, "!")


@pytest.mark.parametrize(
    ("prompt", "anchor", "goes_to", "start"),
    [
        ("axb", "ab", "aab.", 1),  # what is left out goes to what stands before it
        ("axyb", "aab", "aaab.", 1),
        ("axb", "awyb", "awb.", 1),  # of what is longer the beginning
        ("xb", "b", "bb.", 0),  # nothing stands before it: the first position
        ("abx", "ab", "abb.", 2),
        ("x", "", "..", 0),
    ],
)
def test_what_stands_after_the_concept_goes_to_itself(prompt: str, anchor: str, goes_to: str, start: int) -> None:
    written, covered_from = source_of(prompt, anchor)
    assert written[: len(prompt) + 1] == goes_to
    assert covered_from == start
    assert set(written[len(prompt) + 1 :]) == {"!"}


def test_behind_a_prefix_the_rest_goes_where_it_went_and_the_prefix_nowhere() -> None:
    """The first position of these letters stands for the token that begins a prompt."""
    bare = align(rows("^axb", "^x"), rows("^awwb", "^w"), rows("")[0, 0])
    found = bare.of([1, 0]).behind(torch.tensor([3, 2]))  # "^pppx", "^ppaxb"
    assert found.ends.tolist() == [5, 6]
    assert [int(row.float().argmax()) for row in found.covered] == [4, 4]
    written = [(anchor + END).ljust(LENGTH, "!") for anchor in ("^w", "^awwb")]
    for row, text, rest in zip(found.source.tolist(), written, ("w.", "wb."), strict=True):
        assert "".join(text[i] for i in row)[4 : 4 + len(rest)] == rest
        assert {text[i] for i in row[4 + len(rest) :]} == {"!"}


def test_weights_are_shared_fairly_and_cover_nothing_before_the_concept() -> None:
    found = align(rows("axb", "abxcd"), rows("ab", "abcd"), rows("")[0, 0])
    weights = found.weights()
    assert weights.sum().item() == pytest.approx(1)
    assert weights[~found.covered].abs().max() == 0
    assert weights.sum(1).tolist() == pytest.approx([0.5, 0.5])
    words, end, near, far = weights[0, 1:3].sum(), weights[0, 3], weights[0, 4 : 4 + NEAR_PADDING], weights[0, 12:]
    assert words.item() == pytest.approx(near.sum().item())
    assert words.item() == pytest.approx(far.sum().item())
    assert words.item() == pytest.approx(2 * end.item())


def test_real_prompts_align_by_their_tokens(tiny_pipeline: Pipeline) -> None:
    prompt, anchor = (token_vectors(tiny_pipeline, tokenize(tiny_pipeline, [t])[0]) for t in ("a b c", "a c"))
    end = token_vectors(tiny_pipeline, torch.tensor(tiny_pipeline.tokenizer.eos_token_id))
    found = align(prompt, anchor, end)
    gathered = found.gather(anchor)
    assert torch.equal(gathered[0, -1], anchor[0, -1])
    assert torch.equal(gathered[0, : found.covered[0].float().argmax()], prompt[0, : found.covered[0].float().argmax()])

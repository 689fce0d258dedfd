"""One projection changed by one solve, and cut to a low rank."""

import pytest
import torch

from unsee_core.least_squares import add_second_moment, solve_low_rank


def a_problem(inputs: int = 12, outputs: int = 7, rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, inputs, generator=generator), torch.randn(rows, outputs, generator=generator)


def change(gram: torch.Tensor, cross: torch.Tensor, metric: torch.Tensor | None = None, rank: int = 7) -> torch.Tensor:
    pair = solve_low_rank(gram, cross, metric, rank)
    assert (pair.a.dtype, pair.b.dtype, pair.rank) == (torch.float32, torch.float32, rank)
    return pair.b @ pair.a


@pytest.mark.parametrize("with_metric", [False, True])
def test_the_change_at_full_rank_is_the_least_squares_solution(with_metric: bool) -> None:
    keys, wanted = a_problem()
    found = change(keys.T @ keys, keys.T @ wanted, wanted.T @ wanted if with_metric else None)
    torch.testing.assert_close(found.T, torch.linalg.lstsq(keys, wanted).solution, rtol=1e-3, atol=1e-4)


def test_nothing_wanted_changes_nothing() -> None:
    keys, wanted = a_problem()
    assert change(keys.T @ keys, keys.T @ (0 * wanted)).abs().max() == 0


def test_what_is_held_harder_moves_less() -> None:
    keys, wanted = a_problem()
    held = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    moved = [
        (held @ change(keys.T @ keys + weight * held.T @ held, keys.T @ wanted).T).norm().item()
        for weight in (0.0, 1.0, 100.0)
    ]
    assert moved[0] > 1.5 * moved[1] > 15 * moved[2]


def test_the_cut_is_best_for_the_inputs_that_occur_and_the_outputs_that_count() -> None:
    keys, _ = a_problem()
    scale = torch.diag(torch.logspace(-2, 1, 12))
    gram, metric = scale @ keys.T @ keys @ scale, torch.diag(torch.logspace(1, -2, 7))
    whole = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))

    def lost(cut: torch.Tensor) -> float:
        rest = whole - cut
        return float(torch.trace(metric @ rest @ gram @ rest.T))

    pair = solve_low_rank(gram, gram @ whole.T, metric, 2)
    left, sizes, right = torch.linalg.svd(whole)
    plain = left[:, :2] * sizes[:2] @ right[:2]
    assert lost(pair.b @ pair.a) < 0.9 * lost(plain)
    nudged = pair.b + 1e-3 * torch.randn(pair.b.shape, generator=torch.Generator().manual_seed(3))
    assert lost(pair.b @ pair.a) <= lost(nudged @ pair.a)


@pytest.mark.parametrize("width", [7, 12])
def test_the_second_moment_adds_up_above_the_diagonal_and_what_is_below_is_not_read(width: int) -> None:
    keys, wanted = a_problem(inputs=width)
    weights = torch.linspace(0.1, 1, len(keys))
    gram = torch.zeros(width, width)
    for part in (slice(0, 15), slice(15, None)):
        torch.testing.assert_close(add_second_moment(gram, keys[part], weights[part]), keys[part] * weights[part, None])
    whole = keys.T @ (keys * weights[:, None])
    torch.testing.assert_close(gram.triu(), whole.triu())
    cross = keys.T @ wanted
    torch.testing.assert_close(
        change(gram.triu() + gram.new_full(gram.shape, 9.0).tril(-1), cross), change(whole, cross)
    )

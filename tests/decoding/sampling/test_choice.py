"""Rows that draw each at their own pace draw what `multinomial` draws for all of them at once."""

import pytest
import torch

from lookahead.decoding.sampling.choice import Sampler, StepNoise, argmax

ROWS, STEPS, VOCABULARY = 3, 6, 40


def scores_at(row: int, step: int) -> torch.Tensor:
    """[1, V]."""
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(100 * row + step))


def drawn_together() -> tuple[list[list[int]], torch.Tensor]:
    torch.manual_seed(7)
    steps = [
        Sampler()(torch.cat([scores_at(row, step) for row in range(ROWS)])).tolist() for step in range(STEPS)
    ]
    return [list(tokens) for tokens in zip(*steps, strict=True)], torch.rand(1)


@pytest.mark.parametrize(
    "order",
    [
        [row for _ in range(STEPS) for row in range(ROWS)],
        [row for row in range(ROWS) for _ in range(STEPS)],
        [2, 2, 2, 0, 1, 0, 2, 1, 1, 1, 0, 0, 0, 0, 2, 2, 1, 1],
    ],
)
def test_the_order_in_which_rows_advance_does_not_matter(order):
    expected, random_after = drawn_together()
    torch.manual_seed(7)
    noise = StepNoise(ROWS)
    choices = [noise.choice_of_row(row) for row in range(ROWS)]
    tokens: list[list[int]] = [[] for _ in range(ROWS)]
    for row in order:
        tokens[row].append(int(choices[row](scores_at(row, len(tokens[row])))))
    assert tokens == expected
    assert torch.equal(torch.rand(1), random_after)
    assert not noise._waiting


def test_nothing_is_kept_for_a_row_that_left():
    noise = StepNoise(2)
    first, second = noise.choice_of_row(0), noise.choice_of_row(1)
    first(scores_at(0, 0))
    first(scores_at(0, 1))
    second(scores_at(1, 0))
    noise.remove(1)
    first(scores_at(0, 2))
    assert not noise._waiting


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_multinomial_refuses_is_refused_in_its_words(value):
    scores = torch.zeros(1, 4)
    scores[0, 2] = value
    with pytest.raises(RuntimeError, match="probability tensor contains either"):
        Sampler()(scores)
    with pytest.raises(RuntimeError, match="probability tensor contains either"):
        StepNoise(1).choice_of_row(0)(scores)


def test_the_likeliest_is_the_first_of_equals():
    assert argmax(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])).tolist() == [1, 0]

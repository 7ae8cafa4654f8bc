"""The smallest margin: how near a tie came among the greedy choices of an answer."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.decoding.sampling.margins import SmallestMargin

INFINITY = float("inf")


def smallest(*scores, left_out=(), dtype=torch.float32):
    margin = SmallestMargin()
    for step in scores:
        margin.note(torch.tensor(step, dtype=dtype), left_out)
    return margin.value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_first_score_less_the_second_the_smallest_of_all(dtype):
    assert smallest([[1.0, 4.0, 3.5]], [[0.0, 8.0, -1.0]], dtype=dtype) == 0.5
    assert smallest([[1.0, 4.0, 3.5], [2.0, 1.75, 0.0]], dtype=dtype) == 0.25
    assert smallest([[1.0, 4.0, 3.5], [2.0, 1.75, 0.0]], left_out=[1], dtype=dtype) == 0.5
    assert smallest([[-3.0, -3.0, -9.0]], dtype=dtype) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_choice_without_a_second_token_has_none(dtype):
    assert smallest(dtype=dtype) is None
    assert smallest([[1.0]], dtype=dtype) is None
    assert smallest([[1.0, -INFINITY]], dtype=dtype) is None
    assert smallest([[1.0, -INFINITY]], [[1.0, 0.5]], [[float("nan"), 1.0]], dtype=dtype) == 0.5


def test_of_zeros_with_a_sign():
    assert smallest([[-0.0, 0.0, -1.0]]) == 0.0


@pytest.mark.parametrize("rows", [1, 3])
def test_in_the_stats_it_is_that_of_the_scores(rows):
    token_ids = torch.cat([prompt(seed) for seed in range(rows)])
    generation = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "repetition_penalty": 1.3}
    model = tiny_model("llama")
    found = model.generate(token_ids, **generation, return_dict_in_generate=True, output_scores=True)
    pairs = torch.stack(found.scores).topk(2).values
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    lookahead.generate(model, token_ids, **generation)
    expected = float((pairs[..., 0] - pairs[..., 1]).min())
    assert lookahead.last_stats.smallest_margin == pytest.approx(expected, abs=1e-4)


def test_rows_that_are_padded_are_left_out():
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    generation = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": [11, 20, 33]}
    model = tiny_model("llama")
    margins = []
    for extra in ({}, {"return_dict_in_generate": True}):  # rows alone, and all rows together to the end
        lookahead = Lookahead(LookaheadConfig(decoding_length=8))
        lookahead.generate(model, token_ids, **generation, **extra)
        margins.append(lookahead.last_stats.smallest_margin)
    assert margins[0] == pytest.approx(margins[1], abs=1e-5)


def test_drawn_tokens_have_none():
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    lookahead.generate(tiny_model("llama"), prompt(0), max_new_tokens=8, do_sample=True)
    assert lookahead.last_stats.smallest_margin is None

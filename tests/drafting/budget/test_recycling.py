"""The switch of recycling, step by step, and the likeliest tokens of logits."""

import numpy as np
import pytest
import torch

from lookahead.decoding.sampling.topk import topk_successors
from lookahead.drafting.budget.recycling import RecyclingPolicy, RecyclingState

POLICY = RecyclingPolicy(trial_steps=4, rest_steps=3)


def after(steps, state=None):
    state = RecyclingState() if state is None else state
    for tokens, cost_s in steps:
        state = POLICY.adapt(state, tokens=tokens, cost_s=cost_s, seconds_per_token=0.02)
    return state


def test_it_is_judged_by_what_a_trial_cost_and_brought():
    assert after([(0, 0.005)] * 3).is_on
    assert not after([(0, 0.005)] * 4).is_on
    assert after([(0, 0.005)] * 3 + [(1, 0.005)]) == RecyclingState()
    assert not after([(0, 0.006)] * 3 + [(1, 0.006)]).is_on


def test_it_rests_and_is_tried_anew():
    off = RecyclingState(is_on=False)
    assert not after([(0, 0.0)] * 2, off).is_on
    assert after([(0, 0.0)] * 3, off) == RecyclingState()


def test_the_state_handed_in_stays_as_it_was():
    state = RecyclingState()
    after([(1, 1.0)], state)
    assert state == RecyclingState()


@pytest.mark.parametrize("field", ["trial_steps", "rest_steps"])
def test_there_is_no_trial_of_no_steps(field):
    with pytest.raises(ValueError, match=field):
        RecyclingPolicy(**{field: 0})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_come_first(dtype):
    logits = torch.arange(30).remainder(10).reshape(3, 10).to(dtype)
    likeliest = topk_successors(logits)
    assert likeliest.dtype == np.int32
    assert likeliest.tolist() == [[9, 8, 7, 6, 5, 4, 3, 2]] * 3


def test_a_small_vocabulary_has_fewer():
    assert topk_successors(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[1, 2, 0]]

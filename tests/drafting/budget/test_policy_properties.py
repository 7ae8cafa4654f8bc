"""The budget against brute force: every size, on small drafts."""

from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.step_times import known_times
from lookahead.drafting.budget.policy import BudgetPolicy, BudgetState

MAX_NODES = 9


def as_row(sixtyfourths):
    return np.array([1.0, *sorted((chance / 64 for chance in sixtyfourths), reverse=True)])


rows_of_chances = st.lists(
    st.lists(st.integers(0, 64), max_size=4).map(as_row),
    min_size=1,
    max_size=3,
)
policies = st.integers(1, MAX_NODES).map(lambda max_nodes: BudgetPolicy(max_nodes=max_nodes))


@st.composite
def all_times(draw):
    steps = draw(st.lists(st.integers(0, 32), min_size=2, max_size=MAX_NODES))
    seconds = np.cumsum([draw(st.integers(1, 64)), *steps]) / 64
    return known_times(range(1, len(seconds) + 1), seconds)


@st.composite
def states(draw):
    return BudgetState(draw(all_times()), draw(st.integers(1, 64)) / 4, draw(st.integers(1, 64)) / 16)


@given(policies, states(), rows_of_chances)
def test_no_other_size_gains_more(policy, state, rows):
    rate = policy.tokens_per_second(state, len(rows))

    def gain(size):
        return sum(row[:size].sum() for row in rows) - rate * state.times.seconds_for(size)

    sizes = policy.sizes(state, rows)
    longest = min(policy.max_nodes, max(map(len, rows)))
    assert max(sizes) <= longest
    assert all(size == min(max(sizes), len(row)) for size, row in zip(sizes, rows, strict=True))
    assert gain(max(sizes)) >= max(map(gain, range(1, longest + 1))) - 1e-9


@given(policies, states(), rows_of_chances)
def test_sizes_lie_within_the_drafts_and_are_the_same_each_time(policy, state, rows):
    given_rows = [row.copy() for row in rows]
    sizes = policy.sizes(state, rows)
    assert all(1 <= size <= len(row) for size, row in zip(sizes, rows, strict=True))
    assert all(type(size) is int for size in sizes)
    assert policy.sizes(state, rows) == sizes
    assert all(np.array_equal(row, before) for row, before in zip(rows, given_rows, strict=True))


@given(policies, states(), rows_of_chances, st.integers(1, 64))
def test_a_higher_rate_never_makes_drafts_larger(policy, state, rows, more_tokens):
    faster = replace(state, mean_tokens=state.mean_tokens + more_tokens / 4)
    assert policy.tokens_per_second(faster) >= policy.tokens_per_second(state)
    after, before = policy.sizes(faster, rows), policy.sizes(state, rows)
    assert all(a <= b for a, b in zip(after, before, strict=True))


@given(
    policies,
    states(),
    rows_of_chances,
    st.integers(0, 20),
    st.none() | st.integers(0, 6),
    st.integers(0, 64),
)
def test_no_other_ragged_sizes_gain_more(policy, state, rows, beside, max_draft_tokens, sixtyfourths):
    state = replace(state, drafted_seconds=sixtyfourths / 64)
    rate = policy.tokens_per_second(state, len(rows))

    def gain(sizes):
        seconds = state.times.seconds_for((sum(sizes) + beside) / len(rows))
        seconds += state.drafted_seconds if sum(sizes) > len(rows) else 0.0
        return sum(row[:size].sum() for row, size in zip(rows, sizes, strict=True)) - rate * seconds

    limit = float("inf") if max_draft_tokens is None else max_draft_tokens
    choices = product(*[range(1, 1 + min(policy.max_nodes, len(row))) for row in rows])
    allowed = [sizes for sizes in choices if sum(sizes) - len(rows) <= limit]
    found = policy.ragged_sizes(state, rows, beside=beside, max_draft_tokens=max_draft_tokens)
    assert found in allowed
    assert gain(found) >= max(map(gain, allowed)) - 1e-9

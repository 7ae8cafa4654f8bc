"""Counting frequent tokens in fixed memory."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.growth.frequent import (
    COUNTED,
    COUNTS,
    TOKENS,
    UNKNOWN,
    count_tokens,
    new_counts,
)


def counted(tokens):
    counts = new_counts()
    count_tokens(counts, np.array(tokens, np.int32))
    return counts


@given(tokens=st.lists(st.integers(0, COUNTED - 1), max_size=200))
def test_few_tokens_are_counted_exactly(tokens):
    counts = counted(tokens)
    known = counts[TOKENS] != UNKNOWN
    assert dict(zip(counts[TOKENS, known], counts[COUNTS, known], strict=True)) == dict(Counter(tokens))
    assert (np.diff(counts[COUNTS]) <= 0).all()


@given(tokens=st.lists(st.integers(0, 2**31 - 1), max_size=300), often=st.integers(0, 5))
def test_what_is_frequent_is_found_among_any_number_of_others(tokens, often):
    """A token that came more often than length / COUNTED is always among the counted ones."""
    mixed = [token for other in tokens for token in (other, *[7] * (often > 0))]
    counts = counted(mixed)
    if mixed.count(7) > len(mixed) / COUNTED:
        assert 7 in counts[TOKENS]
    assert counts[COUNTS].sum() == len(mixed)
    held = counts[TOKENS][counts[TOKENS] != UNKNOWN]
    assert len(set(held.tolist())) == len(held)


def test_a_new_token_takes_the_place_of_the_last_one():
    counts = counted([0, *range(COUNTED), 1000])
    assert counts[TOKENS, 0] == 0
    assert counts[TOKENS, 1] == 1000  # one more than the one whose place it took
    assert COUNTED - 1 not in counts[TOKENS]

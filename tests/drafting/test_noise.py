"""The kernels of the noise against numpy's Mersenne twister, and lucky tokens against all tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.noise import coming_noise, exponentials_of, twister_of
from lookahead.drafting.noise import (
    LUCKY_TOKENS,
    MEAN_LUCK,
    find_lucky,
    log_frequency,
    luck_of,
    write_noise,
    write_words,
)


@given(
    seed=st.integers(0, 2**32 - 1),
    skipped=st.integers(0, 1500),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4),
)
def test_draws_of_any_size_after_any_words_are_numpys(seed, skipped, sizes):
    state, place, twister = twister_of(seed, skipped)
    for size in sizes:
        words, noise = np.empty(2 * size, np.uint32), np.empty(size, np.float32)
        place = write_words(state, place, words)
        write_noise(words, noise)
        expected = exponentials_of(twister, size)
        np.testing.assert_allclose(noise, expected.astype(np.float32), rtol=2e-7)
        luck = [luck_of(words, token) for token in range(size)]
        np.testing.assert_allclose(luck, -np.log(expected) - MEAN_LUCK, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000), size=st.integers(1, 3000))
def test_lucky_tokens_are_those_with_most_frequency_for_their_noise(seed, size):
    state, place, twister = twister_of(seed)
    words, lucky = np.empty(2 * size, np.uint32), np.empty(LUCKY_TOKENS, np.int32)
    write_words(state, place, words)
    find_lucky(words, lucky)
    luck = np.exp([log_frequency(token, size) for token in range(size)]) / exponentials_of(twister, size)
    ranked = np.argsort(-luck, kind="stable")
    expected = ranked[luck[ranked] > 1 / 64][:LUCKY_TOKENS].tolist()
    assert lucky.tolist() == expected + [-1] * (LUCKY_TOKENS - len(expected))


def test_frequencies_sum_to_about_one():
    total = sum(np.exp(log_frequency(token, 50_000)) for token in range(50_000))
    assert total == pytest.approx(1, rel=0.01)


def test_the_ring_of_draws_begins_anywhere():
    first, second = (coming_noise(1, 50, first=first) for first in (0, 2))
    np.testing.assert_array_equal(first[0].words[0], second[0].words[2])
    np.testing.assert_array_equal(first[1], second[1])

"""The noise of coming draws as the kernels take it, and as numpy computes it."""

import numpy as np

from lookahead.drafting.noise import LUCKY_TOKENS, WORDS, Noise, find_lucky, write_words


def twister_of(seed, skipped=0):
    """numpy's Mersenne twister, some words later: its state's words, the next one's place, and itself."""
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)
    twister.random_raw(skipped)
    state = twister.state["state"]
    return state["key"].astype(np.uint32), int(state["pos"]), twister


def exponentials_of(twister, size):
    """E of each token: numpy's words, made into numbers as torch does."""
    words = twister.random_raw(2 * size).reshape(size, 2)
    bits = ((words[:, 0] << np.uint64(32)) | words[:, 1]) & np.uint64((1 << 53) - 1)
    return -np.log1p(-(bits.astype(np.float64) / (1 << 53)))


def coming_noise(seed, vocabulary_size, *, draws=3, first=2):
    """The noise of a row's next draws, and E of all tokens of each of them."""
    state, place, twister = twister_of(seed, skipped=100)
    words = np.zeros((draws, 2 * vocabulary_size), np.uint32)
    lucky = np.zeros((draws, LUCKY_TOKENS), np.int32)
    levels = []
    for draw in range(draws):
        slot = (first + draw) % draws
        place = write_words(state, place, words[slot])
        find_lucky(words[slot], lucky[slot])
        levels.append(exponentials_of(twister, vocabulary_size))
    assert 0 <= place <= WORDS
    return Noise(words, lucky, first, draws), levels

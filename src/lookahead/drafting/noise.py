"""The noise of coming draws, which drafts may know: which token a sampled step chooses depends on it.

`torch.multinomial` chooses the token with the largest p / E, where p is its probability and E exponential
noise, drawn for each token of the vocabulary before p is known. On the CPU the noise comes from a Mersenne
twister (MT19937): each E from two of its words. So a copy of the twister yields the noise of the coming draws
before the forward pass. A token whose E is small is likelier than its p says.

    p        cat 0.5   dog 0.3   cow 0.2         p / E     cat 0.33   dog 1.5   cow 0.05
    E        cat 1.5   dog 0.2   cow 4.0         "dog" is chosen

What is drawn, and the text, do not depend on this: drafts are verified as always.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.jit import kernel, lean_kernel

UInt32Array = npt.NDArray[np.uint32]

WORDS = 624
"""Words of the twister's state."""
_MIDDLE = 397
LUCKY_TOKENS = 32
"""How many tokens are looked for that a draw's noise favours."""
_PRIOR_ID = 200
"""A token is taken to be as frequent as 1 / (its id + this): vocabularies are numbered by frequency."""
_MIN_LUCK = 1 / 64
"""Only tokens whose frequency / E exceeds this are looked at closely: 64 of them on average."""
_BLOCK = 64
_LOW_BITS = np.uint32((1 << 21) - 1)
_MIN_NOISE = 1e-30
MEAN_LUCK = 0.5772156649
"""Mean of -ln E."""


class Noise(NamedTuple):
    """The noise of one row's coming draws, in a ring.

    Attributes:
        words: uint32 [slots, 2 * V], the twister's words of each draw as they are before tempering; a token's
            two lie side by side.
        lucky: int32 [slots, LUCKY_TOKENS], the tokens that each draw favours most; -1 where there are fewer.
        first: The slot of the next draw.
        known: How many draws are known.
    """

    words: UInt32Array
    lucky: Int32Array
    first: int
    known: int


NO_NOISE = Noise(np.zeros((1, 2), np.uint32), np.full((1, LUCKY_TOKENS), -1, np.int32), 0, 0)
"""Nothing is known of the coming draws, or the step is greedy."""
NOTHING_KNOWN: Mapping[int, Noise] = MappingProxyType({})
"""The same for all rows."""


@lean_kernel
def twisted(upper: Any, lower: Any, other: Any) -> Any:
    """Return the word of the next state that follows from three words, all uint32."""
    mixed = np.uint32((upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF)))
    odd = np.uint32(np.uint32(0x9908B0DF) * np.uint32(mixed & np.uint32(1)))
    return np.uint32(other ^ np.uint32(mixed >> np.uint32(1)) ^ odd)


@lean_kernel
def twist(state: UInt32Array, after: UInt32Array) -> None:
    """Write the words of the next state, another array.

    A word depends on two of the old state and on one that lies `_MIDDLE` words further, of the new state
    where that is beyond the end. In three parts, none depends on its own words, so each runs in vectors.
    """
    new = WORDS - _MIDDLE
    for i in range(new):
        after[i] = twisted(state[i], state[i + 1], state[i + _MIDDLE])
    for i in range(new):
        after[i + new] = twisted(state[i + new], state[i + new + 1], after[i])
    for i in range(WORDS - 1 - 2 * new):
        after[i + 2 * new] = twisted(state[i + 2 * new], state[i + 2 * new + 1], after[i + new])
    after[WORDS - 1] = twisted(state[WORDS - 1], after[0], after[_MIDDLE - 1])


@lean_kernel
def tempered(word: Any) -> Any:
    """Return the number that a word of the state, uint32, stands for."""
    word = np.uint32(word ^ np.uint32(word >> np.uint32(11)))
    word = np.uint32(word ^ np.uint32(np.uint32(word << np.uint32(7)) & np.uint32(0x9D2C5680)))
    word = np.uint32(word ^ np.uint32(np.uint32(word << np.uint32(15)) & np.uint32(0xEFC60000)))
    return np.uint32(word ^ np.uint32(word >> np.uint32(18)))


@kernel
def write_words(state: UInt32Array, place: int, words: UInt32Array) -> int:
    """Write the next words; return the place of the one after them. `place` is `WORDS` at the state's end."""
    at = min(len(words), WORDS - place)
    words[:at] = state[place : place + at]
    if at == len(words):
        return place + at
    before = state.copy()
    while len(words) - at >= WORDS:  # each state is written where its words belong
        twist(before, words[at : at + WORDS])
        before = words[at : at + WORDS]
        at += WORDS
    if at == len(words):
        state[:] = before
        return WORDS
    twist(before, state)
    words[at:] = state[: len(words) - at]
    return len(words) - at


@lean_kernel
def noise_of(words: UInt32Array, token: Integer) -> float:
    """Return E of a token as torch draws it, before it is rounded to float32."""
    first, second = tempered(words[2 * token]), tempered(words[2 * token + 1])
    bits = ((np.uint64(first) << np.uint64(32)) | np.uint64(second)) & np.uint64((1 << 53) - 1)
    return -math.log1p(-np.float64(bits) * (1.0 / (1 << 53)))


@kernel
def write_noise(words: UInt32Array, noise: npt.NDArray[np.float32]) -> None:
    """Write E of every token, float32 [V]."""
    for token in range(len(noise)):
        noise[token] = noise_of(words, token)


@lean_kernel
def luck_of(words: UInt32Array, token: Integer) -> float:
    """Return -ln E of a token less its mean: what its noise adds to the logarithm of its probability."""
    return -math.log(max(noise_of(words, token), _MIN_NOISE)) - MEAN_LUCK


@lean_kernel
def log_frequency(token: Integer, vocabulary_size: int) -> float:
    """Return the logarithm of a token's frequency, as far as its id tells."""
    return -math.log((token + _PRIOR_ID) * math.log((vocabulary_size + _PRIOR_ID) / _PRIOR_ID))


@lean_kernel
def has_near(words: UInt32Array, first: int, bound: Any) -> bool:
    """Return whether any of the tokens with these words may be lucky; `first` is its id and `_PRIOR_ID`."""
    near = np.int32(0)
    for i in range(len(words) // 2):
        highest = np.float32(np.int32(tempered(words[2 * i]) & _LOW_BITS))
        near += np.int32(highest * np.float32(np.int32(first + i)) < bound)
    return bool(near > 0)


@kernel
def find_lucky(words: UInt32Array, lucky: Int32Array) -> None:
    """Write the tokens with the largest frequency / E, best first.

    E is at least u, the number that it is the logarithm of, and u at least its highest 21 bits: they rule out
    nearly all tokens without a logarithm.
    """
    size = len(words) // 2
    scale = math.log((size + _PRIOR_ID) / _PRIOR_ID)
    limit = 1 / (_MIN_LUCK * scale)
    bound = np.float32((1 << 21) * limit)
    scores = np.empty(len(lucky))
    found = 0
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        if not has_near(words[2 * begin : 2 * end], begin + _PRIOR_ID, bound):
            continue
        for token in range(begin, end):
            highest = np.float32(tempered(words[2 * token]) & _LOW_BITS)
            if highest * np.float32(token + _PRIOR_ID) >= bound:
                continue
            score = noise_of(words, token) * (token + _PRIOR_ID)
            if score >= (scores[found - 1] if found == len(lucky) else limit):
                continue
            place = min(found, len(lucky) - 1)
            while place > 0 and scores[place - 1] > score:
                scores[place], lucky[place] = scores[place - 1], lucky[place - 1]
                place -= 1
            scores[place], lucky[place] = score, token
            found = min(found + 1, len(lucky))
    lucky[found:] = -1

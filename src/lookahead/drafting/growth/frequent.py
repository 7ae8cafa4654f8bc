"""The most frequent tokens of a namespace's answers: what may come where nothing else is known.

That is order 0 of prediction by partial matching. They are counted in a list of fixed length, sorted by count
("Space-Saving", Metwally et al. 2005). A new token takes the place of the last one and its count plus 1, so
that frequent ones rise:

    tokens  the  .  a          "a" comes      the  a  .       "cat" comes    the  a  cat
    counts    5  2  2                           5  3  2                        5  3    3
"""

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.jit import kernel

COUNTED = 64
"""Tokens that are counted."""
FREQUENT = 32
"""Of them, those that may be candidates."""
UNKNOWN = -1
_MAX_COUNT = 2**30

TOKENS, COUNTS = 0, 1
"""Rows of the counts."""


def new_counts() -> Int32Array:
    """Return counts of no tokens, int32 [2, COUNTED]."""
    counts = np.zeros((2, COUNTED), np.int32)
    counts[TOKENS] = UNKNOWN
    return counts


@kernel
def count_tokens(counts: Int32Array, tokens: Int32Array) -> None:
    """Count the tokens of an answer."""
    for i in range(len(tokens)):
        token, place = np.int64(tokens[i]), np.int64(0)
        while place < COUNTED - 1 and np.int64(counts[TOKENS, place]) not in (UNKNOWN, token):
            place += 1
        counts[TOKENS, place] = token
        counts[COUNTS, place] += 1
        while place > 0 and counts[COUNTS, place] > counts[COUNTS, place - 1]:
            counts[TOKENS, place], counts[TOKENS, place - 1] = counts[TOKENS, place - 1], token
            count = counts[COUNTS, place]
            counts[COUNTS, place], counts[COUNTS, place - 1] = counts[COUNTS, place - 1], count
            place -= 1
        if counts[COUNTS, 0] >= _MAX_COUNT:
            counts[COUNTS] //= 2

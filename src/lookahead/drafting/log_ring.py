"""Kernels over a token log: a ring of tokens and, for a few orders, a hash chain through it (as in LZ77).

For each order n, `heads` maps the hash of n tokens to the newest place where such a run ends, and `previous`
leads from a place to the one before it with the same hash. Inserting a token is one head and one link an
order; finding where the last tokens stood before is walking a chain. Forgetting is being overwritten.

Places count all tokens ever written; a place lies in the ring at its remainder.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.compilation import kernel
from lookahead.drafting.trie_nodes import Int32Array, Integer

ORDERS = (6, 4, 2, 1)
"""Lengths of the runs that chains are kept for, longest first."""
GAP = -1
"""Stands between two sequences: nothing matches across it, nothing is drafted beyond it."""
NOWHERE = -1
SMALLEST_RING = 64


class TokenRing(NamedTuple):
    """A log of `capacity` tokens, a power of two.

    Attributes:
        tokens: int32 [capacity].
        previous: int32 [orders, capacity], the older place with the same hash.
        heads: int32 [orders, capacity / 2], the newest place of each hash.
        end: int64 [1], tokens ever written: the place of the next one.
    """

    tokens: Int32Array
    previous: Int32Array
    heads: Int32Array
    end: npt.NDArray[np.int64]


def ring_bytes(capacity: int) -> int:
    """Return the bytes of a ring: 28 a token."""
    return 4 * capacity + len(ORDERS) * (4 * capacity + 4 * (capacity // 2)) + 8


def new_ring(capacity: int) -> TokenRing:
    """Return an empty log for `capacity` tokens, a power of two from SMALLEST_RING on."""
    return TokenRing(
        np.full(capacity, GAP, np.int32),
        np.full((len(ORDERS), capacity), NOWHERE, np.int32),
        np.full((len(ORDERS), capacity // 2), NOWHERE, np.int32),
        np.zeros(1, np.int64),
    )


def rewritten(ring: TokenRing, capacity: int) -> TokenRing:
    """Return a ring of another capacity with the newest tokens of this one, its places counted anew."""
    larger = new_ring(capacity)
    append_all(larger, newest_tokens(ring, capacity))
    return larger


def newest_tokens(ring: TokenRing, most: int) -> Int32Array:
    """Return the newest tokens that the ring still holds, at most so many, oldest first."""
    end = int(ring.end[0])
    begin = max(0, end - min(most, len(ring.tokens)))
    return ring.tokens[np.arange(begin, end) % len(ring.tokens)]


@kernel
def oldest_place(ring: TokenRing) -> int:
    """Return the oldest place that has not been overwritten."""
    return int(max(0, ring.end[0] - len(ring.tokens)))


@kernel
def token_at(ring: TokenRing, place: Integer) -> int:
    """Return the token at a place that the ring holds."""
    return int(ring.tokens[place & (len(ring.tokens) - 1)])


@kernel
def slot_of_run(run: Int32Array, order: int, slots: int) -> Integer:
    """Return the hash slot of the last `order` tokens of `run`; NOWHERE if there are fewer, or a gap."""
    if len(run) < order:
        return NOWHERE
    key = np.uint64(0)
    for back in range(1, order + 1):
        token = run[len(run) - back]
        if token == GAP:
            return NOWHERE
        key = (key ^ np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return np.int64(key & np.uint64(slots - 1))


@kernel
def append(ring: TokenRing, token: Integer, run: Int32Array) -> None:
    """Write a token (or GAP) and link it into the chains; `run` ends in it, with the tokens before it."""
    place = ring.end[0]
    at = place & (len(ring.tokens) - 1)
    ring.tokens[at] = token
    ring.end[0] = place + 1
    for i in range(len(ORDERS)):
        slot = slot_of_run(run, ORDERS[i], ring.heads.shape[1])
        if slot == NOWHERE:
            ring.previous[i, at] = NOWHERE
        else:
            ring.previous[i, at] = ring.heads[i, slot]
            ring.heads[i, slot] = place


@kernel
def append_all(ring: TokenRing, tokens: Int32Array) -> None:
    """Write tokens in order; the first of them follows what the ring ends with."""
    longest = ORDERS[0]
    before = min(longest - 1, ring.end[0] - oldest_place(ring))
    run = np.empty(before + len(tokens), np.int32)
    for i in range(before):
        run[i] = token_at(ring, ring.end[0] - before + i)
    run[before:] = tokens
    for i in range(len(tokens)):
        append(ring, tokens[i], run[max(0, before + i + 1 - longest) : before + i + 1])

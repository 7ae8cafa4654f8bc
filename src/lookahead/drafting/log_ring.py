"""Kernels over a token log: a ring of tokens and, for a few orders, a hash chain through it (as in LZ77).

For each order n, `heads` maps the hash of n tokens to the newest place where such a run ends, and `previous`
leads from a place to the one before it with the same hash. Inserting a token is one head and one link an
order; finding where the last tokens stood before is walking a chain. Forgetting is being overwritten.

Every token has an owner, a number: runs of different owners never match, so that one ring holds the texts of
many namespaces and forgets the oldest of them all.

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
        owners: int32 [capacity], whose each token is.
        previous: int32 [orders, capacity], the older place with the same hash.
        heads: int32 [orders, capacity / 2], the newest place of each hash.
        end: int64 [1], tokens ever written: the place of the next one.
    """

    tokens: Int32Array
    owners: Int32Array
    previous: Int32Array
    heads: Int32Array
    end: npt.NDArray[np.int64]


def ring_bytes(capacity: int) -> int:
    """Return the bytes of a ring: 32 a token."""
    return 8 * capacity + len(ORDERS) * (4 * capacity + 4 * (capacity // 2)) + 8


def new_ring(capacity: int) -> TokenRing:
    """Return an empty log for `capacity` tokens, a power of two from SMALLEST_RING on."""
    return TokenRing(
        np.full(capacity, GAP, np.int32),
        np.zeros(capacity, np.int32),
        np.full((len(ORDERS), capacity), NOWHERE, np.int32),
        np.full((len(ORDERS), capacity // 2), NOWHERE, np.int32),
        np.zeros(1, np.int64),
    )


def rewritten(ring: TokenRing, capacity: int) -> TokenRing:
    """Return a ring of another capacity with the newest tokens of this one, its places counted anew."""
    larger = new_ring(capacity)
    tokens, owners = newest_tokens(ring, capacity)
    append_owned(larger, tokens, owners)
    return larger


def newest_tokens(ring: TokenRing, most: int) -> tuple[Int32Array, Int32Array]:
    """Return the newest tokens that the ring still holds, at most so many, oldest first, and their owners."""
    end = int(ring.end[0])
    begin = max(0, end - min(most, len(ring.tokens)))
    at = np.arange(begin, end) % len(ring.tokens)
    return ring.tokens[at], ring.owners[at]


@kernel
def oldest_place(ring: TokenRing) -> int:
    """Return the oldest place that has not been overwritten."""
    return int(max(0, ring.end[0] - len(ring.tokens)))


@kernel
def token_at(ring: TokenRing, place: Integer) -> int:
    """Return the token at a place that the ring holds."""
    return int(ring.tokens[place & (len(ring.tokens) - 1)])


@kernel
def slot_of_run(run: Int32Array, owner: Integer, order: int, slots: int) -> Integer:
    """Return the hash slot of an owner's run, the last `order` of `run`; NOWHERE across a gap or its begin."""
    if len(run) < order:
        return NOWHERE
    key = np.uint64(owner)
    for back in range(1, order + 1):
        token = run[len(run) - back]
        if token == GAP:
            return NOWHERE
        key = (key ^ np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return np.int64(key & np.uint64(slots - 1))


@kernel
def append(ring: TokenRing, token: Integer, owner: Integer, run: Int32Array) -> None:
    """Write a token (or GAP) and link it into the chains; `run` ends in it, with the tokens before it."""
    place = ring.end[0]
    at = place & (len(ring.tokens) - 1)
    ring.tokens[at] = token
    ring.owners[at] = owner
    ring.end[0] = place + 1
    for i in range(len(ORDERS)):
        slot = slot_of_run(run, owner, ORDERS[i], ring.heads.shape[1])
        if slot == NOWHERE:
            ring.previous[i, at] = NOWHERE
        else:
            ring.previous[i, at] = ring.heads[i, slot]
            ring.heads[i, slot] = place


@kernel
def append_all(ring: TokenRing, tokens: Int32Array, owner: Integer) -> None:
    """Write an owner's tokens in order; the first of them follows what the ring ends with."""
    longest = ORDERS[0]
    before = min(longest - 1, ring.end[0] - oldest_place(ring))
    run = np.empty(before + len(tokens), np.int32)
    for i in range(before):
        run[i] = token_at(ring, ring.end[0] - before + i)
    run[before:] = tokens
    for i in range(len(tokens)):
        append(ring, tokens[i], owner, run[max(0, before + i + 1 - longest) : before + i + 1])


@kernel
def append_owned(ring: TokenRing, tokens: Int32Array, owners: Int32Array) -> None:
    """Write tokens of several owners, each owner's ending in a GAP."""
    begin = 0
    for i in range(len(tokens)):
        if i + 1 == len(tokens) or owners[i + 1] != owners[i]:
            append_all(ring, tokens[begin : i + 1], np.int64(owners[i]))
            begin = i + 1

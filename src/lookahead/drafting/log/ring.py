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

from lookahead.drafting.arrays import Int32Array, Int64Array, Integer
from lookahead.jit import lean_kernel

ORDERS = (6, 4, 2, 1)
"""Lengths of the runs that chains are kept for, longest first."""
GAP = -1
"""Stands between two sequences: nothing matches across it, nothing is drafted beyond it."""
NOWHERE = -1
SMALLEST_RING = 64
MAX_SINGLES = 2**17
"""Heads of single tokens at most: a vocabulary has no more tokens than that, or few of them are ever used."""
LATEST_PLACE = 2**30
"""Where a ring's places are counted anew; they are int32."""


class TokenRing(NamedTuple):
    """A log of `capacity` tokens, a power of two, as kernels see it.

    Attributes:
        tokens: int32 [capacity].
        owners: int32 [capacity], whose each token is.
        previous: int32 [orders, capacity], the older place with the same hash.
        heads: int32, the newest place of each hash: capacity / 2 of each order, but see `MAX_SINGLES`.
        end: int64 [1], tokens ever written: the place of the next one.
    """

    tokens: Int32Array
    owners: Int32Array
    previous: Int32Array
    heads: Int32Array
    end: Int64Array


def _ring_in(cells: Int32Array, heads: Int32Array, end: Int64Array) -> TokenRing:
    """Return the ring that lies in int32 cells [6, capacity]: handing over few arrays takes less time."""
    return TokenRing(cells[0], cells[1], cells[2:], heads, end)


ring_in = lean_kernel(_ring_in)


class RingMemory:
    """The memory of a ring, and what is done with it from outside a draft.

    Args:
        capacity: tokens, a power of two from SMALLEST_RING on.

    Attributes:
        cells: int32 [6, capacity], tokens, owners and links.
        heads: int32, see `TokenRing`.
        end: int64 [1].
    """

    def __init__(self, capacity: int) -> None:
        self.cells = np.full((2 + len(ORDERS), capacity), NOWHERE, np.int32)
        self.heads = np.full(heads_for(capacity), NOWHERE, np.int32)
        self.end = np.zeros(1, np.int64)
        self.capacity = capacity
        self.tokens, self.owners = self.cells[0], self.cells[1]  # NOWHERE and GAP are the same number

    @property
    def written(self) -> int:
        """Tokens ever written, gaps included."""
        return int(self.end[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self.cells.nbytes + self.heads.nbytes + self.end.nbytes

    def append(self, tokens: Int32Array, owner: int) -> None:
        """Write an owner's tokens in order; the first of them follows what the ring ends with."""
        run = np.empty(ORDERS[0] - 1 + len(tokens), np.int32)
        append_to(self.cells, self.heads, self.end, tokens, owner, run)

    def append_owned(self, tokens: Int32Array, owners: Int32Array) -> None:
        """Write tokens of several owners, each one's texts ending in a GAP."""
        borders = np.flatnonzero(np.diff(owners)) + 1
        for part, of_part in zip(np.split(tokens, borders), np.split(owners, borders), strict=True):
            if len(part):
                self.append(part, int(of_part[0]))

    def newest(self, most: int) -> tuple[Int32Array, Int32Array]:
        """Return the newest tokens still held, at most so many, oldest first, and their owners."""
        begin = max(0, self.written - min(most, self.capacity))
        at = np.arange(begin, self.written) % self.capacity
        return self.tokens[at], self.owners[at]

    def with_room(self, count: int, most: int) -> "RingMemory":
        """Return the ring, or a larger one of at most `most` tokens, with room for `count` more."""
        wanted = self.capacity
        while wanted < self.written + count and 2 * wanted <= most:
            wanted *= 2
        if wanted == self.capacity and self.written + count <= LATEST_PLACE:
            return self
        larger = RingMemory(wanted)  # whose places are counted anew
        larger.append_owned(*self.newest(wanted))
        return larger


def heads_for(capacity: int) -> int:
    """Return how many heads a ring of so many tokens has."""
    slots = capacity // 2
    return (len(ORDERS) - 1) * slots + min(slots, MAX_SINGLES)


def ring_bytes(capacity: int) -> int:
    """Return the bytes of a ring: 32 a token, a little less in a large one."""
    return 4 * (2 + len(ORDERS)) * capacity + 4 * heads_for(capacity) + 8


@lean_kernel
def oldest_place(ring: TokenRing) -> int:
    """Return the oldest place that has not been overwritten."""
    return int(max(0, ring.end[0] - len(ring.tokens)))


@lean_kernel
def token_at(ring: TokenRing, place: Integer) -> int:
    """Return the token at a place that the ring holds."""
    return int(ring.tokens[place & (len(ring.tokens) - 1)])


@lean_kernel
def seed_of(owner: Integer) -> Integer:
    """Return the hash of no tokens of an owner, far from those of others: tokens are mixed in bit by bit."""
    return np.uint64(owner) * np.uint64(0xD1B54A32D192ED03)


@lean_kernel
def mixed(key: Integer, token: Integer) -> Integer:
    """Return a hash of a hash and one more token."""
    key = (key ^ np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return key ^ (key >> np.uint64(29))


@lean_kernel
def slot_of_single(key: Integer, slots: int) -> Integer:
    """Return where the head of a single token is that has this hash, in a ring of so many slots an order."""
    return np.int64(3 * slots) + np.int64(key & np.uint64(min(slots, MAX_SINGLES) - 1))


@lean_kernel
def slots_of_run(run: Int32Array, owner: Integer, slots: int) -> tuple[Integer, Integer, Integer, Integer]:
    """Return where the heads of an owner's last 6, 4, 2 and 1 tokens are, with so many slots an order.

    NOWHERE stands for one whose tokens would reach across a gap or the begin of `run`.
    """
    six: Integer = NOWHERE
    four: Integer = NOWHERE
    two: Integer = NOWHERE
    one: Integer = NOWHERE
    key = seed_of(owner)
    for length in range(1, min(ORDERS[0], len(run)) + 1):
        token = run[len(run) - length]
        if token == GAP:
            break
        key = mixed(key, token)
        slot = np.int64(key & np.uint64(slots - 1))
        if length == ORDERS[3]:
            one = slot_of_single(key, slots)
        elif length == ORDERS[2]:
            two = 2 * slots + slot
        elif length == ORDERS[1]:
            four = slots + slot
        elif length == ORDERS[0]:
            six = slot
    return six, four, two, one


@lean_kernel
def newest_of_token(ring: TokenRing, owner: Integer, token: Integer) -> Integer:
    """Return the newest place where a token stands in a ring that is all one owner's.

    NOWHERE stands for one that is not there, or whose slot another one has taken since.
    """
    place = np.int64(ring.heads[slot_of_single(mixed(seed_of(owner), token), len(ring.tokens) // 2)])
    if place < oldest_place(ring) or ring.tokens[place & (len(ring.tokens) - 1)] != token:
        return NOWHERE
    return place


@lean_kernel
def append(ring: TokenRing, token: Integer, owner: Integer, run: Int32Array) -> None:
    """Write a token (or GAP) and link it into the chains; `run` ends in it, with the tokens before it."""
    tokens, owners, previous, heads, end = ring
    place = end[0]
    at = place & (len(tokens) - 1)
    tokens[at], owners[at] = token, owner
    end[0] = place + 1
    slots = slots_of_run(run, owner, len(tokens) // 2)
    for i in range(len(ORDERS)):
        previous[i, at] = NOWHERE
        if slots[i] != NOWHERE:
            previous[i, at] = heads[slots[i]]
            heads[slots[i]] = place


@lean_kernel
def append_all(ring: TokenRing, tokens: Int32Array, owner: Integer, run: Int32Array) -> None:
    """Write tokens as `RingMemory.append` does; `run` is scratch space, five places longer than `tokens`."""
    longest = ORDERS[0]
    before = min(longest - 1, ring.end[0] - oldest_place(ring))
    for i in range(before):
        run[i] = token_at(ring, ring.end[0] - before + i)
    for i in range(len(tokens)):
        run[before + i] = tokens[i]
        append(ring, tokens[i], owner, run[max(0, before + i + 1 - longest) : before + i + 1])


@lean_kernel
def append_to(
    cells: Int32Array,
    heads: Int32Array,
    end: Int64Array,
    tokens: Int32Array,
    owner: Integer,
    run: Int32Array,
) -> None:
    """Write tokens to the ring that lies in these arrays, as `append_all` does."""
    append_all(ring_in(cells, heads, end), tokens, owner, run)

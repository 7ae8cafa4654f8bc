"""The log's text: a ring of tokens and, for four orders, a hash chain through it (as in LZ77).

For each order n, `heads` maps the hash of n tokens to the newest index where such a run ends, and `previous`
leads from an index to the one before it with the same hash. The chain of order 2 for "a b":

    index       0    1    2    3    4    5    6    7
    token       a    b    c    GAP  d    a    b    e
                     ▲                        ▲
    previous: none ◄─┴────────────────────────┴───── heads[hash(a b)]

Writing a token sets one head and one link per order. Finding earlier occurrences of the last tokens is
walking a chain. Being overwritten is being forgotten.

Every token has an owner, a number. Runs of different owners never match, so that one ring holds the texts of
many namespaces and forgets the oldest of them all.

An index counts all tokens ever written; its cell in the ring is the index modulo the capacity.
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Int32Array, Int64Array, Integer
from lookahead.jit import lean_kernel

ORDERS = (6, 4, 2, 1)
"""Lengths of the runs that chains are kept for, longest first."""
GAP = -1
"""Separates two sequences: nothing matches across it, nothing is drafted beyond it."""
NO_INDEX = -1
SMALLEST_RING = 64
MAX_SINGLE_HEADS = 2**17
"""Maximum number of heads for single tokens: few vocabularies have more tokens in use."""
MAX_INDEX = 2**30
"""Where a ring's indices start again from 0; they are int32."""


class TokenRing(NamedTuple):
    """A log of `capacity` tokens, a power of two, as kernels see it.

    Attributes:
        tokens: int32 [capacity].
        owners: int32 [capacity], the owner of each token.
        previous: int32 [orders, capacity], the older index with the same hash.
        heads: int32, the newest index of each hash: capacity / 2 of each order, but see `MAX_SINGLE_HEADS`.
        end: int64 [1], the number of tokens ever written: the index of the next one.
    """

    tokens: Int32Array
    owners: Int32Array
    previous: Int32Array
    heads: Int32Array
    end: Int64Array


def _ring_view(cells: Int32Array, heads: Int32Array, end: Int64Array) -> TokenRing:
    """Return the ring in int32 cells [6, capacity]: kernels start faster with fewer arrays to receive."""
    return TokenRing(cells[0], cells[1], cells[2:], heads, end)


ring_view = lean_kernel(_ring_view)


class RingBuffer:
    """The arrays of a ring, with the operations on it outside of a draft.

    Args:
        capacity: Tokens, a power of two from SMALLEST_RING on.

    Attributes:
        cells: int32 [6, capacity], tokens, owners and links.
        heads: int32, see `TokenRing`.
        end: int64 [1].
        arrays: All three, as kernels take them.
    """

    def __init__(self, capacity: int) -> None:
        self.cells = np.full((2 + len(ORDERS), capacity), NO_INDEX, np.int32)
        self.heads = np.full(heads_for(capacity), NO_INDEX, np.int32)
        self.end = np.zeros(1, np.int64)
        self.arrays = (self.cells, self.heads, self.end)
        self.capacity = capacity
        self.tokens, self.owners = self.cells[0], self.cells[1]  # NO_INDEX and GAP are the same number

    @property
    def written(self) -> int:
        """The number of tokens ever written, gaps included."""
        return int(self.end[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self.cells.nbytes + self.heads.nbytes + self.end.nbytes

    def append(self, tokens: Int32Array, owner: int) -> None:
        """Write an owner's tokens in order; the first of them follows the newest in the ring."""
        run = np.empty(ORDERS[0] - 1 + len(tokens), np.int32)
        append_to(self.cells, self.heads, self.end, tokens, owner, run)

    def append_owned(self, tokens: Int32Array, owners: Int32Array) -> None:
        """Write tokens of several owners, each owner's texts ending in a GAP."""
        borders = np.flatnonzero(np.diff(owners)) + 1
        for part, part_owners in zip(np.split(tokens, borders), np.split(owners, borders), strict=True):
            if len(part):
                self.append(part, int(part_owners[0]))

    def overwritten_by(self, count: int) -> Int32Array:
        """Return the owners of the tokens, gaps not counted, that the next `count` to be written replace."""
        begin = max(0, self.written - self.capacity)
        held = max(0, min(self.written, self.written + count - self.capacity) - begin)
        first = begin % self.capacity
        parts = slice(first, first + held), slice(0, max(0, first + held - self.capacity))
        owners = [self.owners[part][self.tokens[part] != GAP] for part in parts]
        return owners[0] if len(owners[1]) == 0 else np.concatenate(owners)

    def newest(self, max_tokens: int) -> tuple[Int32Array, Int32Array]:
        """Return the newest tokens still held, oldest first, and their owners."""
        begin = max(0, self.written - min(max_tokens, self.capacity))
        cells = np.arange(begin, self.written) % self.capacity
        return self.tokens[cells], self.owners[cells]

    def with_room(self, count: int, max_tokens: int) -> "RingBuffer":
        """Return the ring, or a larger one of at most `max_tokens`, with room for `count` more."""
        wanted = self.capacity
        while wanted < self.written + count and 2 * wanted <= max_tokens:
            wanted *= 2
        if wanted == self.capacity and self.written + count <= MAX_INDEX:
            return self
        larger = RingBuffer(wanted)  # its indices begin at 0 again
        larger.append_owned(*self.newest(wanted))
        return larger


def heads_for(capacity: int) -> int:
    """Return how many heads a ring of this capacity has."""
    per_order = capacity // 2
    return (len(ORDERS) - 1) * per_order + min(per_order, MAX_SINGLE_HEADS)


def ring_bytes(capacity: int) -> int:
    """Return the bytes of a ring: 32 per token, a little less in a large one."""
    return 4 * (2 + len(ORDERS)) * capacity + 4 * heads_for(capacity) + 8


@lean_kernel
def oldest_index(ring: TokenRing) -> int:
    """Return the oldest index that has not been overwritten."""
    return int(max(0, ring.end[0] - len(ring.tokens)))


@lean_kernel
def token_at(ring: TokenRing, index: Integer) -> int:
    """Return the token at an index that the ring holds."""
    return int(ring.tokens[index & (len(ring.tokens) - 1)])


@lean_kernel
def owner_hash(owner: Integer) -> Integer:
    """Return the hash that an owner's runs begin with, far from those of other owners."""
    return np.uint64(owner) * np.uint64(0xD1B54A32D192ED03)


@lean_kernel
def extended_hash(key: Integer, token: Integer) -> Integer:
    """Return the hash of a run with one more token, from the run's hash."""
    key = (key ^ np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return key ^ (key >> np.uint64(29))


@lean_kernel
def single_head(key: Integer, per_order: int) -> Integer:
    """Return where the head of a single token with this hash is, in a ring of `per_order` heads per order."""
    return np.int64(3 * per_order) + np.int64(key & np.uint64(min(per_order, MAX_SINGLE_HEADS) - 1))


@lean_kernel
def heads_of_run(
    run: Int32Array, owner: Integer, per_order: int
) -> tuple[Integer, Integer, Integer, Integer]:
    """Return where the heads of an owner's last 6, 4, 2 and 1 tokens are, with `per_order` heads per order.

    NO_INDEX where the run is shorter than that, or has a gap within. The hash grows backwards from the last
    token, so that one pass over `run` = … GAP c d e serves all orders:

        order 1: hash(e)    order 2: hash(e d)    order 4: NO_INDEX (e d c GAP)    order 6: NO_INDEX
    """
    six: Integer = NO_INDEX
    four: Integer = NO_INDEX
    two: Integer = NO_INDEX
    one: Integer = NO_INDEX
    key = owner_hash(owner)
    for length in range(1, min(ORDERS[0], len(run)) + 1):
        token = run[len(run) - length]
        if token == GAP:
            break
        key = extended_hash(key, token)
        head = np.int64(key & np.uint64(per_order - 1))
        if length == ORDERS[3]:
            one = single_head(key, per_order)
        elif length == ORDERS[2]:
            two = 2 * per_order + head
        elif length == ORDERS[1]:
            four = per_order + head
        elif length == ORDERS[0]:
            six = head
    return six, four, two, one


@lean_kernel
def newest_index(ring: TokenRing, owner: Integer, token: Integer) -> Integer:
    """Return the newest index of a token in a ring that has a single owner.

    NO_INDEX where the token is not held, or another token has taken over its head since.
    """
    head = single_head(extended_hash(owner_hash(owner), token), len(ring.tokens) // 2)
    index = np.int64(ring.heads[head])
    if index < oldest_index(ring) or ring.tokens[index & (len(ring.tokens) - 1)] != token:
        return NO_INDEX
    return index


@lean_kernel
def append(ring: TokenRing, token: Integer, owner: Integer, run: Int32Array) -> None:
    """Write a token (or GAP) and link it into the chains; `run` ends in it, with the tokens before it."""
    tokens, owners, previous, heads, end = ring
    index = end[0]
    cell = index & (len(tokens) - 1)
    tokens[cell], owners[cell] = token, owner
    end[0] = index + 1
    run_heads = heads_of_run(run, owner, len(tokens) // 2)
    for i in range(len(ORDERS)):
        previous[i, cell] = NO_INDEX
        if run_heads[i] != NO_INDEX:
            previous[i, cell] = heads[run_heads[i]]
            heads[run_heads[i]] = index


@lean_kernel
def append_all(ring: TokenRing, tokens: Int32Array, owner: Integer, run: Int32Array) -> None:
    """Write tokens as `RingBuffer.append` does; `run` is a workspace of 5 + len(tokens)."""
    longest = ORDERS[0]
    before = min(longest - 1, ring.end[0] - oldest_index(ring))
    for i in range(before):
        run[i] = token_at(ring, ring.end[0] - before + i)
    for i in range(len(tokens)):
        run[before + i] = tokens[i]
        append(ring, tokens[i], owner, run[max(0, before + i + 1 - longest) : before + i + 1])


@lean_kernel
def append_to(
    cells: Int32Array, heads: Int32Array, end: Int64Array, tokens: Int32Array, owner: Integer, run: Int32Array
) -> None:
    """Write tokens to the ring in these arrays, as `append_all` does."""
    append_all(ring_view(cells, heads, end), tokens, owner, run)

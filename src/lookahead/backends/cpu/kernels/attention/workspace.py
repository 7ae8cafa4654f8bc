"""What a layer's attention reads, and the memory in which a thread adds up its sums."""

from typing import Any, NamedTuple

from lookahead.backends.cpu.kernels.amx import ROWS
from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
from lookahead.backends.cpu.kernels.pointers import address_of, int_pointer, offset, pointer_like
from lookahead.jit import pointer_kernel

MAX_PIECE = 256
"""Maximum number of queries in a piece of work, unless one node has more."""


class Heads(NamedTuple):
    """What the attention of one layer reads.

    Attributes:
        queries: Pointer to [nodes, heads, width].
        keys: Pointer to a layer of the cache, [cache rows, key heads, slots, width], the last two contiguous.
        values: Likewise.
        row_stride: Elements between two rows of the cache.
        head_stride: Elements between two heads of the cache.
        heads: Query heads.
        key_heads: Key and value heads.
        width: Of a head.
        scale: Factor on the scores.
        uses_tiles: Whether bfloat16 is multiplied in tile registers.
    """

    queries: Any
    keys: Any
    values: Any
    row_stride: int
    head_stride: int
    heads: int
    key_heads: int
    width: int
    scale: Any
    uses_tiles: bool


class Sums(NamedTuple):
    """The sums of all threads, and one thread's workspace.

    Attributes:
        totals: float32 [nodes, heads, spans, width], weighted values, not yet divided, of rows that are no
            prompts.
        states: float32 [nodes, heads, spans, 2], the largest score and the sum of weights.
        queries: [queries, width] of the current piece, of the keys' type; this and all that follows belongs
            to one thread.
        scores: float32 [16, BLOCK]; in tiles, twice [BLOCK, 16].
        decays: float32 [16]; in tiles, twice.
        weights: In tiles, twice words [BLOCK / 2, 16].
        keys: Words of a block's keys, packed; in tiles, the keys [BLOCK, width] of a block that is not full.
        values: Words of a block's values, packed; in tiles, [width, BLOCK].
        span_totals: float32 [queries, width], of the current span.
        span_states: float32 [queries, 2].
        merged: float32 [queries, width], of all spans so far.
        merged_states: float32 [queries, 2].
        packed_queries: In tiles, words [queries / 16, width / 2, 16].
        lane_totals: In tiles, float32 [queries / 16, width, 16], of the current span.
        lane_states: In tiles, float32 [queries / 16, 2, 16]: the largest scores, and the sums of weights.
        merged_lanes: In tiles, float32 [queries / 16, width, 16], of all spans so far.
        merged_lane_states: In tiles, float32 [queries / 16, 2, 16].
        partial: In tiles, float32 [width, 16], totals of a tile of which not all queries see a block.
        firsts: int64 [queries], the first key of the current block that each query sees.
        ends: int64 [queries], the key after the last that each query sees.
        slots: int64 [BLOCK], of a block whose places lie in order.
    """

    totals: Any
    states: Any
    queries: Any
    scores: Any
    decays: Any
    weights: Any
    keys: Any
    values: Any
    span_totals: Any
    span_states: Any
    merged: Any
    merged_states: Any
    packed_queries: Any
    lane_totals: Any
    lane_states: Any
    merged_lanes: Any
    merged_lane_states: Any
    partial: Any
    firsts: Any
    ends: Any
    slots: Any


class Keys(NamedTuple):
    """The keys of a block that are added to the sums of some queries.

    Attributes:
        at: Elements before the row and head in the cache.
        slots: Pointer to int64 [BLOCK], the slot of each of the block's places.
        first: The first key that any of the queries sees.
        end: The key after the last.
        are_in_order: Whether the slots follow one another.
    """

    at: int
    slots: Any
    first: int
    end: int
    are_in_order: bool


@pointer_kernel
def max_queries(heads: int, key_heads: int) -> int:
    """Return how many queries a thread's workspace holds: those of a piece of work, in whole tiles."""
    return (max(MAX_PIECE, heads // key_heads) + 2 * ROWS - 1) // ROWS * ROWS


_SCORES = 2 * ROWS * BLOCK
_DECAYS = 4 * ROWS
WEIGHTS = ROWS * BLOCK // 2
"""Words of a tile's weights."""


def attention_scratch(heads: int, key_heads: int, width: int) -> int:
    """Return how many float32 of scratch a thread needs."""
    queries = int(max_queries(heads, key_heads))
    of_block = _SCORES + _DECAYS + 2 * WEIGHTS + 2 * BLOCK * width + ROWS * width
    return of_block + queries * (6 * width + 8)


def attention_integers(heads: int, key_heads: int) -> int:
    """Return how many int64 of scratch a thread needs."""
    return 2 * int(max_queries(heads, key_heads)) + BLOCK


@pointer_kernel
def sums_of_thread(totals: Any, states: Any, heads: Heads, scratch: Any, integers: int) -> Sums:
    """Return the sums with a thread's workspace.

    Args:
        totals: See `Sums`.
        states: See `Sums`.
        heads: The layer's.
        scratch: Pointer to float32 [attention_scratch(heads, key heads, width)].
        integers: Address of int64 [attention_integers(heads, key heads)].
    """
    queries, width = max_queries(heads.heads, heads.key_heads), heads.width
    decays = offset(scratch, _SCORES)
    weights = offset(decays, _DECAYS)
    keys = offset(weights, 2 * WEIGHTS)
    values = offset(keys, BLOCK * width)
    partial = offset(values, BLOCK * width)
    rows = offset(partial, ROWS * width)  # six times [queries, width], then the states
    states_of_rows = offset(rows, 6 * queries * width)
    return Sums(
        totals,
        states,
        pointer_like(address_of(rows), heads.keys),
        scratch,
        decays,
        weights,
        keys,
        values,
        offset(rows, queries * width),
        states_of_rows,
        offset(rows, 2 * queries * width),
        offset(states_of_rows, 2 * queries),
        offset(rows, 3 * queries * width),
        offset(rows, 4 * queries * width),
        offset(states_of_rows, 4 * queries),
        offset(rows, 5 * queries * width),
        offset(states_of_rows, 6 * queries),
        partial,
        int_pointer(integers),
        int_pointer(integers + 8 * queries),
        int_pointer(integers + 16 * queries),
    )

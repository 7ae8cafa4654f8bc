"""`RankTable`: the ranks of tokens among the frequent ones and among the runner-ups, found in one look."""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.drafting.growth.frequent import FREQUENT, TOKENS, UNKNOWN
from lookahead.drafting.growth.runner_ups import RUNNER_UPS
from lookahead.jit import lean_kernel

RANK_BUCKETS = 7
"""Ranks by powers of two: 0, 1, 2-3, 4-7, 8-15, 16-31, and none."""
UNRANKED_BUCKET = RANK_BUCKETS - 1
TABLE = 256
"""Places of the table; a power of two, four times as many as there are tokens."""


class RankTable(NamedTuple):
    """A hash table with open addressing.

    Attributes:
        tokens: int32 [TABLE], UNKNOWN in an empty place.
        frequent: int32 [TABLE], the bucket of the rank among the frequent tokens.
        runner_ups: int32 [TABLE], that among the runner-ups.
    """

    tokens: Int32Array
    frequent: Int32Array
    runner_ups: Int32Array


@lean_kernel
def rank_bucket(rank: Integer) -> int:
    """Return the bucket of a rank, counted from 0."""
    bucket = 0
    while rank >= (1 << bucket) and bucket < UNRANKED_BUCKET:
        bucket += 1
    return bucket


@lean_kernel
def place_in_table(table: RankTable, token: Integer) -> Integer:
    """Return a token's place, or the empty one where it belongs."""
    wanted = np.int64(token)
    place = np.int64((np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56))
    while np.int64(table.tokens[place]) not in (UNKNOWN, wanted):
        place = (place + 1) & (TABLE - 1)
    return place


@lean_kernel
def fill_table(table: RankTable, counts: Int32Array, runner_ups: Int32Array) -> None:
    """Write the ranks of the frequent tokens and of the runner-ups."""
    for i in range(TABLE):
        table.tokens[i] = UNKNOWN
    for rank in range(FREQUENT):
        token = counts[TOKENS, rank]
        if token == UNKNOWN:
            break
        place = place_in_table(table, token)
        table.tokens[place], table.frequent[place] = token, rank_bucket(rank)
        table.runner_ups[place] = UNRANKED_BUCKET
    for rank in range(RUNNER_UPS):
        token = runner_ups[rank]
        if token == UNKNOWN:
            break
        place = place_in_table(table, token)
        if table.tokens[place] == UNKNOWN:
            table.tokens[place], table.frequent[place] = token, UNRANKED_BUCKET
        table.runner_ups[place] = rank_bucket(rank)

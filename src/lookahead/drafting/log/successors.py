"""The model's successors: the most probable next tokens after a token, recycled from its logits.

Each node that a forward pass verifies leaves the model's opinion on what follows that node's token, whether
the text went that way or not. The most probable successors are stored by token, from the last time only
("Token Recycling", arXiv 2408.08696): a weak source, but the only one where nothing was ever repeated.

The table is a hash table with open addressing. An entry belongs to an owner and a token, so that nothing
crosses from one owner to another. When the table is full, its older half is forgotten.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Int32Array, Int64Array, Integer
from lookahead.drafting.log.matches import VOCABULARY
from lookahead.jit import kernel, lean_kernel

SUCCESSORS = 8
"""How many successors are stored per token."""
NO_TOKEN = -1
EMPTY = -1
SMALLEST_TABLE = 64

ENTRIES, WRITES = 0, 1
"""Indices of `SuccessorTable.meta`."""


class SuccessorTable(NamedTuple):
    """Successors by owner and token; at most half of the buckets are in use.

    Attributes:
        keys: int64 [buckets], 2³¹ * owner + token, or EMPTY; buckets is a power of two.
        successors: int32 [buckets, SUCCESSORS], most probable first, NO_TOKEN where there are fewer.
        stamps: int64 [buckets], the number of writes when the entry was written.
        meta: int64 [2], how many entries there are, and how many writes there were.
    """

    keys: Int64Array
    successors: Int32Array
    stamps: Int64Array
    meta: Int64Array


def table_bytes(buckets: int) -> int:
    """Return the bytes of a table."""
    return buckets * (8 + 4 * SUCCESSORS + 8) + 16


def new_table(buckets: int) -> SuccessorTable:
    """Return an empty table; `buckets` is a power of two."""
    return SuccessorTable(
        np.full(buckets, EMPTY, np.int64),
        np.full((buckets, SUCCESSORS), NO_TOKEN, np.int32),
        np.zeros(buckets, np.int64),
        np.zeros(2, np.int64),
    )


@lean_kernel
def key_of(owner: Integer, token: Integer) -> Integer:
    """Return the key of an owner's token."""
    return (np.int64(owner) << np.int64(31)) | np.int64(token)


@lean_kernel
def bucket_of(keys: Int64Array, key: Integer) -> Integer:
    """Return the bucket of a key, or the empty one where it belongs."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.int64(len(keys) - 1)
    bucket = np.int64(mixed >> np.uint64(32)) & mask
    while keys[bucket] not in (EMPTY, key):
        bucket = (bucket + 1) & mask
    return bucket


@lean_kernel
def write_successors(table: SuccessorTable, key: Integer, successors: Int32Array, stamp: Integer) -> None:
    """Write one entry; the table has room for it."""
    bucket = bucket_of(table.keys, key)
    if table.keys[bucket] == EMPTY:
        table.keys[bucket] = key
        table.meta[ENTRIES] += 1
    for rank in range(SUCCESSORS):
        table.successors[bucket, rank] = successors[rank] if rank < len(successors) else NO_TOKEN
    table.stamps[bucket] = stamp


@kernel
def write_all(table: SuccessorTable, owner: Integer, tokens: Int32Array, successors: Int32Array) -> int:
    """Write the successors [m, k] of m tokens in order while there is room; return how many were written."""
    for i in range(len(tokens)):
        if 2 * (table.meta[ENTRIES] + 1) > len(table.keys):
            return i
        table.meta[WRITES] += 1
        write_successors(table, key_of(owner, tokens[i]), successors[i], table.meta[WRITES])
    return len(tokens)


@kernel
def copy_entries(table: SuccessorTable, is_copied: npt.NDArray[np.bool_], other: SuccessorTable) -> None:
    """Copy the entries of the marked buckets to another table, which has room for them."""
    for bucket in range(len(table.keys)):
        if is_copied[bucket]:
            write_successors(other, table.keys[bucket], table.successors[bucket], table.stamps[bucket])
    other.meta[WRITES] = table.meta[WRITES]


def with_room(table: SuccessorTable, max_buckets: int) -> SuccessorTable:
    """Return a table with room for one more entry: twice as large, or at the cap without its older half."""
    buckets = len(table.keys)
    if 2 * (int(table.meta[ENTRIES]) + 1) <= buckets:
        return table
    is_at_cap = 2 * buckets > max_buckets
    roomier = new_table(buckets if is_at_cap else 2 * buckets)
    is_kept = table.keys != EMPTY
    if is_at_cap:
        is_kept &= table.stamps > int(np.median(table.stamps[is_kept]))
    copy_entries(table, is_kept, roomier)
    return roomier


def without_owners(table: SuccessorTable, owners: Int32Array) -> SuccessorTable:
    """Return the table without the entries of these owners."""
    rest = new_table(len(table.keys))
    copy_entries(table, (table.keys != EMPTY) & ~np.isin(table.keys >> 31, owners), rest)
    return rest


def within_vocabulary(
    tokens: Int32Array, rows: Int32Array, size: int | None
) -> tuple[Int32Array, Int32Array]:
    """Return tokens [m] and successors [m, k] without the rows that hold a token beyond the vocabulary."""
    if size is None or max(tokens.max(), rows.max(initial=0)) < size:
        return tokens, rows
    is_known = (tokens < size) & (rows < size).all(axis=1)
    return tokens[is_known], rows[is_known]


def owners_in(table: SuccessorTable) -> set[int]:
    """Return the owners that have an entry."""
    return set(np.unique(table.keys[table.keys != EMPTY] >> 31).tolist())


@lean_kernel
def read_successors(
    keys: Int64Array, successors: Int32Array, readable: Int32Array, token: Integer, found: Int32Array
) -> Integer:
    """Write a token's successors, from the first of the `readable` owners that has an entry for it.

    If none has, write the vocabulary's successors of the single token, if there are any. Return the bucket
    that they are in, or NO_TOKEN.
    """
    found[0] = NO_TOKEN
    for i in range(len(readable) + 1):
        owner = readable[i] if i < len(readable) else VOCABULARY
        bucket = bucket_of(keys, key_of(owner, token))
        for rank in range(SUCCESSORS):
            found[rank] = successors[bucket, rank]  # NO_TOKEN in an empty bucket
        if found[0] != NO_TOKEN:
            return np.int64(bucket)
    return np.int64(NO_TOKEN)

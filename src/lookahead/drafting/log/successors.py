"""What the model itself holds most likely after a token: its own logits, recycled.

Each node that a forward verifies leaves the model's opinion on what follows that node's token, whether the
text went that way or not. The likeliest successors are kept by token, the last time's only ("Token
Recycling", arXiv 2408.08696): a weak source, but one that knows something where nothing was ever repeated.

A table of open addressing. An entry belongs to an owner and a token, so that nothing crosses from one owner
to another; when the table is full, its older half is forgotten.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Int32Array, Integer
from lookahead.jit import kernel, lean_kernel

SUCCESSORS = 8
"""Likeliest tokens kept for each token."""
NO_TOKEN = -1
EMPTY = -1
SMALLEST_TABLE = 64

ENTRIES, WRITES = 0, 1


class SuccessorTable(NamedTuple):
    """Successors by owner and token; at most half of the places are in use.

    Attributes:
        keys: int64 [places], the owner's number, 31 bits of the token, or EMPTY; places is a power of two.
        successors: int32 [places, SUCCESSORS], likeliest first, NO_TOKEN where there are fewer.
        stamps: int64 [places], when each was written: a count of writes.
        meta: int64 [2], entries and writes so far.
    """

    keys: npt.NDArray[np.int64]
    successors: Int32Array
    stamps: npt.NDArray[np.int64]
    meta: npt.NDArray[np.int64]


def table_bytes(places: int) -> int:
    """Return the bytes of a table."""
    return places * (8 + 4 * SUCCESSORS + 8) + 16


def new_table(places: int) -> SuccessorTable:
    """Return an empty table, `places` a power of two."""
    return SuccessorTable(
        np.full(places, EMPTY, np.int64),
        np.full((places, SUCCESSORS), NO_TOKEN, np.int32),
        np.zeros(places, np.int64),
        np.zeros(2, np.int64),
    )


@lean_kernel
def key_of(owner: Integer, token: Integer) -> Integer:
    """Return the key of an owner's token."""
    return (np.int64(owner) << np.int64(31)) | np.int64(token)


@lean_kernel
def place_of(keys: npt.NDArray[np.int64], key: Integer) -> Integer:
    """Return the place of a key, or the empty one where it belongs."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.int64(len(keys) - 1)
    place = np.int64(mixed >> np.uint64(32)) & mask
    while keys[place] not in (EMPTY, key):
        place = (place + 1) & mask
    return place


@lean_kernel
def write_successors(table: SuccessorTable, key: Integer, successors: Int32Array, stamp: Integer) -> None:
    """Write one entry; there is room."""
    place = place_of(table.keys, key)
    if table.keys[place] == EMPTY:
        table.keys[place] = key
        table.meta[ENTRIES] += 1
    for rank in range(SUCCESSORS):
        table.successors[place, rank] = successors[rank] if rank < len(successors) else NO_TOKEN
    table.stamps[place] = stamp


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
def copy_since(table: SuccessorTable, oldest: Integer, other: SuccessorTable) -> None:
    """Copy the entries written since the stamp `oldest` to another table, which has room for them."""
    for place in range(len(table.keys)):
        if table.keys[place] != EMPTY and table.stamps[place] >= oldest:
            write_successors(other, table.keys[place], table.successors[place], table.stamps[place])
    other.meta[WRITES] = table.meta[WRITES]


def with_room(table: SuccessorTable, max_places: int) -> SuccessorTable:
    """Return a table with room for one more entry: twice as large, or at the cap without its older half."""
    places = len(table.keys)
    if 2 * (int(table.meta[ENTRIES]) + 1) <= places:
        return table
    is_at_cap = 2 * places > max_places
    roomier = new_table(places if is_at_cap else 2 * places)
    stamps = table.stamps[table.keys != EMPTY]
    copy_since(table, int(np.median(stamps)) + 1 if is_at_cap else 0, roomier)
    return roomier


def without_owner(table: SuccessorTable, owner: int) -> SuccessorTable:
    """Return the table without the entries of an owner."""
    kept = new_table(len(table.keys))
    for place in np.flatnonzero((table.keys != EMPTY) & (table.keys >> 31 != owner)):
        write_successors(kept, table.keys[place], table.successors[place], table.stamps[place])
    kept.meta[WRITES] = table.meta[WRITES]
    return kept

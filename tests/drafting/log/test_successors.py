"""The table of the model's recycled successors: what it holds, grows to and forgets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead.drafting.log.successors import (
    EMPTY,
    ENTRIES,
    NO_TOKEN,
    SMALLEST_TABLE,
    SUCCESSORS,
    WRITES,
    bucket_of,
    copy_entries,
    key_of,
    new_table,
    table_bytes,
    with_room,
    without_owners,
    write_all,
)
from oracles.naive_log import Successors

LARGEST_TOKEN = 2**31 - 1


def write(table, owner, tokens, successors):
    return write_all(table, owner, np.array(tokens, np.int32), np.array(successors, np.int32))


def read(table, owner, token):
    row = table.successors[bucket_of(table.keys, key_of(owner, token))].tolist()
    return row[: row.index(NO_TOKEN)] if NO_TOKEN in row else row


def content(table):
    used = np.flatnonzero(table.keys != EMPTY)
    used = used[np.argsort(table.stamps[used])]
    keys = [(int(key) >> 31, int(key) & LARGEST_TOKEN) for key in table.keys[used]]
    return [
        (key, [token for token in table.successors[bucket].tolist() if token != NO_TOKEN])
        for key, bucket in zip(keys, used, strict=True)
    ]


def test_successors_are_read_as_they_were_written():
    table = new_table(SMALLEST_TABLE)
    assert write(table, 1, [5, LARGEST_TOKEN], [[7, 8], [9, 0]]) == 2
    assert read(table, 1, 5) == [7, 8]
    assert read(table, 1, LARGEST_TOKEN) == [9, 0]
    assert read(table, 1, 6) == []
    assert table.meta[ENTRIES] == 2


def test_the_last_time_counts():
    table = new_table(SMALLEST_TABLE)
    write(table, 1, [5, 5], [list(range(8)), list(range(10, 18))])
    write(table, 1, [5], [[3]])
    assert read(table, 1, 5) == [3]  # nothing is left of the longer row
    assert table.meta[ENTRIES] == 1
    assert table.meta[WRITES] == 3


def test_only_the_most_probable_are_kept():
    table = new_table(SMALLEST_TABLE)
    write(table, 1, [5], [list(range(20))])
    assert read(table, 1, 5) == list(range(SUCCESSORS))


def test_owners_have_successors_of_their_own():
    table = new_table(SMALLEST_TABLE)
    write(table, 1, [5], [[7]])
    write(table, 2, [5], [[8]])
    assert (read(table, 1, 5), read(table, 2, 5), read(table, 3, 5)) == ([7], [8], [])
    assert content(without_owners(table, np.array([1]))) == [((2, 5), [8])]
    assert content(table) == [((1, 5), [7]), ((2, 5), [8])]  # the old one is as it was


def test_at_max_half_of_the_buckets_are_used():
    table = new_table(SMALLEST_TABLE)
    tokens = np.arange(100)
    assert write(table, 1, tokens, tokens[:, None]) == SMALLEST_TABLE // 2
    assert write(table, 1, [1000], [[1]]) == 0
    assert read(table, 1, 1000) == []


def test_a_full_table_doubles_up_to_its_cap_and_loses_nothing():
    table = new_table(SMALLEST_TABLE)
    tokens = np.arange(SMALLEST_TABLE // 2)
    write(table, 1, tokens, tokens[:, None])
    larger = with_room(table, 2 * SMALLEST_TABLE)
    assert len(larger.keys) == 2 * SMALLEST_TABLE
    assert content(larger) == content(table)
    assert with_room(larger, 2 * SMALLEST_TABLE) is larger


def test_a_full_table_at_its_cap_forgets_its_older_half():
    table = new_table(SMALLEST_TABLE)
    tokens = np.arange(SMALLEST_TABLE // 2)
    write(table, 1, tokens, tokens[:, None])
    table.stamps[bucket_of(table.keys, key_of(1, 0))] = table.meta[WRITES] = 1000  # 0 was written again
    kept = with_room(table, 2 * SMALLEST_TABLE - 1)
    assert len(kept.keys) == SMALLEST_TABLE
    assert [token for (_, token), _ in content(kept)] == [*range(17, 32), 0]
    assert kept.meta.tolist() == [16, 1000]


def test_copying_since_a_stamp_keeps_the_stamps():
    table, other = new_table(SMALLEST_TABLE), new_table(SMALLEST_TABLE)
    write(table, 1, [1, 2, 3], [[4], [5], [6]])
    copy_entries(table, table.stamps >= 2, other)
    assert content(other) == [((1, 2), [5]), ((1, 3), [6])]
    assert sorted(other.stamps[other.keys != EMPTY].tolist()) == [2, 3]


@pytest.mark.parametrize("buckets", [64, 1024])
def test_a_tables_bytes(buckets):
    assert sum(array.nbytes for array in new_table(buckets)) == table_bytes(buckets)


ROWS = st.tuples(
    st.integers(1, 3), st.sampled_from([0, 1, 2**30, LARGEST_TOKEN, *range(50, 120)]), st.integers(0, 9)
)


@settings(max_examples=100)
@given(st.lists(st.lists(ROWS, max_size=60), max_size=12), st.sampled_from([64, 128]), st.integers(1, 3))
def test_random_writes_equal_a_dict(parts, max_buckets, forgotten):
    table, naive = new_table(SMALLEST_TABLE), Successors(SMALLEST_TABLE, max_buckets)
    for part in parts:
        for owner, token, successor in part:
            while not write(table, owner, [token], [[successor]]):
                table = with_room(table, max_buckets)
            naive.write(owner, token, [successor])
    assert content(table) == list(naive.entries.items())
    assert len(table.keys) == naive.buckets
    for key, row in naive.entries.items():
        assert read(table, *key) == row
    others = [(key, row) for key, row in naive.entries.items() if key[0] != forgotten]
    assert content(without_owners(table, np.array([forgotten]))) == others

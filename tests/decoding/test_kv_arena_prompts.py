"""What the arena does for prompts: layers without tokens, padding, and as much room as each row needs."""

import pytest
import torch

from lookahead.decoding.kv_arena import GROWTH_SLOTS, KVArena

STATES = torch.empty(0, 2, 0, 3)
"""Keys or values of no tokens."""


def created(layers=2, rows=3, capacity=8, **settings):
    arena = KVArena(layers, capacity, max_rows=rows, **settings)
    arena.set_active_rows([arena.add_row() for _ in range(rows)])
    arena.create(STATES)
    return arena


def numbers(first, count):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(2, -1, 3)


def write(arena, sizes):
    """Write numbers to claimed room, row by row, and keep them."""
    arena.set_active_rows(list(sizes))
    claimed = arena.claim_for_writing(max(sizes.values()), sizes)
    for row, size in sizes.items():
        begin = arena.lengths[row]
        for memory in claimed:
            memory[:, row, :, begin : begin + size] = numbers(100 * row + begin, size)
    arena.keep({row: range(size) for row, size in sizes.items()})
    return claimed


def test_layers_are_created_in_order_and_hold_nothing():
    arena = created()
    assert [arena.length(layer) for layer in range(2)] == [0, 0]
    keys, values = arena.claim_for_writing(1)
    assert keys.shape == values.shape == (2, 3, 2, 8, 3)
    assert keys.dtype == values.dtype == STATES.dtype


def test_layers_that_are_there_stay_as_they_are():
    arena = created(rows=1)
    write(arena, {0: 5})
    addresses = arena.addresses
    arena.create(STATES.double())
    assert arena.addresses == addresses
    assert arena.view(1)[0][0].equal(numbers(0, 5))


def test_rows_get_room_for_their_own_tokens():
    arena = created()
    write(arena, {2: 3, 0: 7})
    write(arena, {0: 1, 1: 4, 2: 2})
    assert arena.lengths == [8, 4, 5]
    assert arena.capacity == 8
    for row, length in enumerate(arena.lengths):
        arena.set_active_rows([row])
        for layer in range(2):
            for held in arena.view(layer):
                assert held[0].equal(numbers(100 * row, length))


def test_a_short_prompt_next_to_a_long_text_makes_nothing_grow():
    arena = created(rows=2)
    write(arena, {0: 8})
    keys, _ = write(arena, {1: 8})
    assert arena.capacity == keys.shape[3] == 8
    write(arena, {0: 1, 1: 1})
    assert arena.capacity == GROWTH_SLOTS


def test_room_that_did_not_fit_keeps_what_was_there():
    arena = created(rows=2)
    write(arena, {0: 6, 1: 2})
    write(arena, {0: 1, 1: 700})
    assert arena.lengths == [7, 702]
    for row, length in enumerate(arena.lengths):
        arena.set_active_rows([row])
        assert arena.view(0)[1][0].equal(numbers(100 * row, length))


@pytest.mark.parametrize("rows", [1, 3])
def test_padding_is_zeros_in_all_layers(rows):
    arena = created(rows=rows, allocate=lambda shape, like: torch.full(shape, torch.nan, dtype=like.dtype))
    arena.pad(dict.fromkeys(range(rows), 0) | {0: 20, rows - 1: 5})
    assert arena.lengths[rows - 1] == 5
    assert arena.lengths[0] == (5 if rows == 1 else 20)
    write(arena, dict.fromkeys(range(rows), 2))
    for row in range(rows):
        arena.set_active_rows([row])
        padding = arena.lengths[row] - 2
        for layer in range(2):
            for held in arena.view(layer):
                assert not held[0, :, :padding].any()
                assert held[0, :, padding:].equal(numbers(100 * row + padding, 2))


def test_no_padding_is_nothing():
    arena = created()
    arena.pad({0: 0, 2: 0})
    assert arena.lengths == [0, 0, 0]
    assert list(arena.active) == [0, 2]

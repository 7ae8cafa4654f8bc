import pytest
import torch

from lookahead.decoding.arena import BLOCK_SLOTS, KVArena, fresh_memory


def states(start: int, count: int, width: int = 3) -> torch.Tensor:
    """[1, 2, count, width]: token t is filled with t, so that one sees where it went."""
    return torch.arange(start, start + count, dtype=torch.float32)[None, None, :, None].expand(
        1, 2, count, width
    )


def held(arena: KVArena, layer: int = 0) -> list[float]:
    keys, values = arena.view(layer)
    assert torch.equal(keys[..., 0], values[..., 0])
    return keys[0, 0, :, 0].tolist()


def filled(layers: int = 2, capacity: int = 32, prefix: int = 4, tree: int = 6) -> KVArena:
    arena = KVArena(layers, capacity)
    for start, count in ((0, prefix), (prefix, tree)):
        for layer in range(layers):
            arena.append(layer, states(start, count), states(start, count))
    return arena


def test_append_returns_everything_held():
    arena = KVArena(1, 16)
    arena.append(0, states(0, 4), states(0, 4))
    keys, values = arena.append(0, states(4, 2), states(4, 2))
    assert keys.shape == (1, 2, 6, 3)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(keys, values)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], [0, 1, 2, 3]),
        ([0], [0, 1, 2, 3, 4]),
        ([0, 1, 2], [0, 1, 2, 3, 4, 5, 6]),
        ([0, 2, 5], [0, 1, 2, 3, 4, 6, 9]),
        ([0, 1, 4, 5], [0, 1, 2, 3, 4, 5, 8, 9]),
    ],
)
def test_keep_leaves_the_path_in_every_layer(path, expected):
    arena = filled()
    arena.keep(4, [path], [4])
    assert held(arena, 0) == held(arena, 1) == expected
    assert arena.length(0) == arena.length(1) == len(expected)


def test_nothing_is_copied_when_appending_within_capacity():
    arena = KVArena(1, 16)
    before, _ = arena.append(0, states(0, 4), states(0, 4))
    after, _ = arena.append(0, states(4, 2), states(4, 2))
    assert before.data_ptr() == after.data_ptr()


def test_grows_beyond_its_capacity_and_loses_nothing():
    arena = filled(capacity=5, prefix=4, tree=20)
    assert held(arena, 0) == held(arena, 1) == list(range(24))
    arena.keep(4, [[0, 7]], [4])
    assert held(arena, 1) == [0, 1, 2, 3, 4, 11]


def test_grows_by_whole_blocks():
    arena = KVArena(1, 8)
    arena.append(0, states(0, 9), states(0, 9))
    assert arena.capacity == BLOCK_SLOTS
    arena.append(0, states(9, BLOCK_SLOTS), states(9, BLOCK_SLOTS))
    assert arena.capacity == 2 * BLOCK_SLOTS
    assert held(arena) == list(range(9 + BLOCK_SLOTS))


def test_does_not_grow_beyond_what_there_will_be_at_most():
    arena = KVArena(1, 8, largest=10)
    arena.append(0, states(0, 9), states(0, 9))
    assert arena.capacity == 10
    arena.append(0, states(9, 6), states(9, 6))  # more than was known
    assert held(arena) == list(range(15))


def test_layers_of_different_shape_are_kept_apart():
    arena = KVArena(3, 16)
    for layer, width in enumerate((3, 5, 3)):
        arena.append(layer, states(0, 4, width), states(0, 4, width))
        arena.append(layer, states(4, 4, width), states(4, 4, width))
    arena.keep(4, [[0, 3]], [4])
    assert [arena.view(layer)[0].shape[-1] for layer in range(3)] == [3, 5, 3]
    assert all(held(arena, layer) == [0, 1, 2, 3, 4, 7] for layer in range(3))


def test_keys_and_values_may_differ_in_width():
    arena = KVArena(1, 8)
    keys, values = arena.append(0, states(0, 2, 3), states(0, 2, 7))
    assert (keys.shape[-1], values.shape[-1]) == (3, 7)


def test_truncate_then_append_overwrites():
    arena = filled()
    arena.truncate(3)
    for layer in range(2):
        arena.append(layer, states(50, 1), states(50, 1))
    assert held(arena) == [0, 1, 2, 50]


def batch(rows: list[list[int]]) -> torch.Tensor:
    """[B, 1, count, 2]: each row's tokens, filled with their number."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None].expand(-1, 1, -1, 2)


def held_by_row(arena: KVArena, lengths: list[int]) -> list[list[float]]:
    keys, _ = arena.view(0)
    return [keys[row, 0, :length, 0].tolist() for row, length in enumerate(lengths)]


def test_each_row_keeps_its_own_path_behind_what_it_holds():
    arena = KVArena(1, 32)
    for states_of_rows in ([[0, 1], [10, 11], [20, 21]], [[2, 3, 4], [12, 13, 14], [22, 23, 24]]):
        arena.append(0, batch(states_of_rows), batch(states_of_rows))
    arena.keep(2, [[0, 2], [0], [1, 2]], [2, 2, 2])
    assert arena.length(0) == 4
    assert held_by_row(arena, [4, 3, 4]) == [[0, 1, 2, 4], [10, 11, 12], [20, 21, 23, 24]]
    arena.append(0, batch([[5, 6], [15, 16], [25, 26]]), batch([[5, 6], [15, 16], [25, 26]]))
    arena.keep(4, [[0], [0, 1], [0, 1]], [4, 3, 4])  # the second row closes its gap
    assert arena.length(0) == 6
    assert held_by_row(arena, [5, 5, 6]) == [
        [0, 1, 2, 4, 5],
        [10, 11, 12, 15, 16],
        [20, 21, 23, 24, 25, 26],
    ]


def test_rows_can_leave():
    arena = KVArena(1, 32)
    arena.append(0, batch([[0, 1], [10, 11], [20, 21]]), batch([[0, 1], [10, 11], [20, 21]]))
    arena.select_rows([0, 2])
    keys, values = arena.append(0, batch([[2], [22]]), batch([[2], [22]]))
    assert keys[:, 0, :, 0].tolist() == values[:, 0, :, 0].tolist() == [[0, 1, 2], [20, 21, 22]]


def test_room_is_claimed_in_all_layers_at_once():
    arena = filled()
    keys, values = arena.claim(3)
    assert keys.shape == values.shape == (2, 1, 2, 32, 3)
    for layer in range(2):
        keys[layer, :, :, 10:13], values[layer, :, :, 10:13] = states(10, 3)[0], states(10, 3)[0]
        assert arena.length(layer) == 13
        assert held(arena, layer) == [*range(10), 10, 11, 12]
    arena.keep(10, [[0, 2]], [4])
    assert held(arena, 0) == held(arena, 1) == [0, 1, 2, 3, 10, 12]


def test_what_is_claimed_grows_with_what_was_there():
    arena = filled(capacity=11)
    keys, _ = arena.claim(3)
    assert arena.capacity >= keys.shape[3] >= 13
    assert keys[1, 0, 0, :10, 0].tolist() == list(range(10))


def test_what_is_claimed_may_grow_no_further_than_needed():
    arena = KVArena(1, 8, largest=10)
    arena.append(0, states(0, 8), states(0, 8))
    keys, _ = arena.claim(2)
    assert keys.shape[3] == 10


def test_rows_that_have_left_are_not_claimed():
    arena = KVArena(1, 8)
    arena.append(0, batch([[0], [10], [20]]), batch([[0], [10], [20]]))
    arena.select_rows([2, 0])
    keys, _ = arena.claim(1)
    assert keys[0, :, 0, 0, 0].tolist() == [20, 0]


def unclaimable():
    empty = KVArena(2, 8)
    incomplete = KVArena(2, 8)
    incomplete.append(0, states(0, 2), states(0, 2))
    of_two_widths = KVArena(2, 8)
    for layer in range(2):
        of_two_widths.append(layer, states(0, 2, 3 + layer), states(0, 2, 3 + layer))
    out_of_order = KVArena(2, 8)
    for layer in (1, 0):
        out_of_order.append(layer, states(0, 2), states(0, 2))
    return {
        "empty": empty,
        "incomplete": incomplete,
        "two widths": of_two_widths,
        "out of order": out_of_order,
    }


@pytest.mark.parametrize("name", unclaimable())
def test_layers_that_do_not_lie_side_by_side_are_not_claimed(name):
    arena = unclaimable()[name]
    before = [arena.length(layer) for layer in range(2)]
    assert arena.claim(1) is None
    assert [arena.length(layer) for layer in range(2)] == before


def test_rows_that_leave_move_none_of_the_others_to_new_memory_where_the_memory_was_given():
    arena = KVArena(1, 32, allocate=fresh_memory)
    arena.append(0, batch([[0, 1], [10, 11], [20, 21]]), batch([[0, 1], [10, 11], [20, 21]]))
    before, _ = arena.memory(0)
    arena.select_rows([0, 2])
    after, _ = arena.memory(0)
    assert after.data_ptr() == before.data_ptr()
    assert held_by_row(arena, [2, 2]) == [[0, 1], [20, 21]]


def test_memory_may_be_larger_than_asked_for():
    def roomy(shape, like):
        return like.new_zeros((*shape[:3], shape[3] + 10, shape[4]))

    arena = KVArena(1, 4, allocate=roomy)
    arena.append(0, states(0, 4), states(0, 4))
    before, _ = arena.memory(0)
    assert before.shape[2] == 14
    arena.extend(14)
    assert arena.memory(0)[0].data_ptr() == before.data_ptr()
    arena.extend(BLOCK_SLOTS)  # by then it has to grow
    after, _ = arena.memory(0)
    assert after.shape[2] == BLOCK_SLOTS + 10
    assert after[0, 0, :4, 0].tolist() == [0, 1, 2, 3]
    assert arena.length(0) == BLOCK_SLOTS

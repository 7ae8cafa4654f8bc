import pytest
import torch

from lookahead.decoding.kv_arena import GROWTH_SLOTS, KVArena


def states(start: int, count: int, width: int = 3) -> torch.Tensor:
    """[1, 2, count, width]: token t is filled with t, so that its slot can be read off."""
    return torch.arange(start, start + count, dtype=torch.float32)[None, None, :, None].expand(
        1, 2, count, width
    )


def held(arena: KVArena, layer: int = 0) -> list[float]:
    keys, values = arena.view(layer)
    assert torch.equal(keys[..., 0], values[..., 0])
    return keys[0, 0, :, 0].tolist()


def of_one_row(layers: int = 1, capacity: int = 32, **settings) -> KVArena:
    arena = KVArena(layers, capacity, **settings)
    arena.set_active_rows([arena.add_row()])
    return arena


def filled(layers: int = 2, capacity: int = 32, prefix: int = 4, tree: int = 6) -> KVArena:
    """One row that keeps a prefix, with a tree appended behind it."""
    arena = of_one_row(layers, capacity)
    for start, count in ((0, prefix), (prefix, tree)):
        arena.keep_first()
        for layer in range(layers):
            arena.append(layer, states(start, count), states(start, count))
    return arena


def test_append_returns_everything_held():
    arena = of_one_row()
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
    arena.keep({0: path})
    assert held(arena, 0) == held(arena, 1) == expected
    assert arena.length(0) == arena.length(1) == arena.lengths[0] == len(expected)


def test_nothing_is_copied_when_appending_within_capacity():
    arena = of_one_row()
    before, _ = arena.append(0, states(0, 4), states(0, 4))
    after, _ = arena.append(0, states(4, 2), states(4, 2))
    assert before.data_ptr() == after.data_ptr()


def test_grows_beyond_its_capacity_and_loses_nothing():
    arena = filled(capacity=5, prefix=4, tree=20)
    assert held(arena, 0) == held(arena, 1) == list(range(24))
    arena.keep({0: [0, 7]})
    assert held(arena, 1) == [0, 1, 2, 3, 4, 11]


def test_grows_by_whole_blocks():
    arena = of_one_row(capacity=8)
    arena.append(0, states(0, 9), states(0, 9))
    assert arena.capacity == GROWTH_SLOTS
    arena.append(0, states(9, GROWTH_SLOTS), states(9, GROWTH_SLOTS))
    assert arena.capacity == 2 * GROWTH_SLOTS
    assert held(arena) == list(range(9 + GROWTH_SLOTS))


def test_does_not_grow_beyond_the_upper_bound():
    arena = of_one_row(capacity=8, max_slots=10)
    arena.append(0, states(0, 9), states(0, 9))
    assert arena.capacity == 10
    arena.append(0, states(9, 6), states(9, 6))  # more than was known
    assert held(arena) == list(range(15))


def test_a_short_row_grows_the_arena_beside_a_long_one_that_is_not_active():
    arena = KVArena(1, 8, max_rows=2)
    long, short = arena.add_row(), arena.add_row()
    arena.set_active_rows([long])
    arena.append(0, states(0, 8), states(0, 8))
    arena.keep_first()
    arena.set_active_rows([short])
    for start in (20, 26):  # the second append grows the arena
        arena.append(0, states(start, 6), states(start, 6))
    assert held(arena) == list(range(20, 32))
    arena.set_active_rows([long])
    assert held(arena) == list(range(8))


def test_layers_of_different_shape_are_kept_apart():
    arena = of_one_row(layers=3)
    for start in (0, 4):
        arena.keep_first()
        for layer, width in enumerate((3, 5, 3)):
            arena.append(layer, states(start, 4, width), states(start, 4, width))
    arena.keep({0: [0, 3]})
    assert [arena.view(layer)[0].shape[-1] for layer in range(3)] == [3, 5, 3]
    assert all(held(arena, layer) == [0, 1, 2, 3, 4, 7] for layer in range(3))


def test_keys_and_values_may_differ_in_width():
    keys, values = of_one_row().append(0, states(0, 2, 3), states(0, 2, 7))
    assert (keys.shape[-1], values.shape[-1]) == (3, 7)


def test_of_what_was_appended_the_first_tokens_can_be_kept_without_a_copy():
    arena = filled()
    arena.keep_first(2)
    assert arena.lengths == [6]
    assert held(arena) == list(range(10))  # the rest is still there, until the next forward pass
    arena.set_active_rows([0])
    assert held(arena) == list(range(6))
    for layer in range(2):
        arena.append(layer, states(50, 1), states(50, 1))
    assert held(arena, 0) == held(arena, 1) == [0, 1, 2, 3, 4, 5, 50]


def test_begin_forgets_what_was_appended_and_not_kept():
    arena = filled()
    arena.set_active_rows([0])
    for layer in range(2):
        arena.append(layer, states(50, 1), states(50, 1))
    assert held(arena, 0) == held(arena, 1) == [0, 1, 2, 3, 50]


# Rows of different lengths.


def batch(rows: list[list[int]]) -> torch.Tensor:
    """[B, 1, count, 2]: each row's tokens, filled with their number."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None].expand(-1, 1, -1, 2)


def append(arena: KVArena, rows: list[list[int]]) -> torch.Tensor:
    keys, values = arena.append(0, batch(rows), batch(rows))
    assert torch.equal(keys, values)
    return keys


def of_rows(texts: list[list[int]], *, max_rows: int | None = None, capacity: int = 32) -> KVArena:
    """An arena of one layer whose first row slots hold these texts; all of them are active."""
    arena = KVArena(1, capacity, max_rows=max_rows or len(texts))
    for text in texts:
        row = arena.add_row()
        arena.set_active_rows([row])
        if text:
            append(arena, [text])
            arena.keep_first()
    arena.set_active_rows(range(len(texts)))
    return arena


def texts_of(arena: KVArena, rows: list[int]) -> list[list[float]]:
    """What row slots keep, active or not."""
    keys, values = arena.memory(0)
    assert torch.equal(keys, values)
    return [keys[row, 0, : arena.lengths[row], 0].tolist() for row in rows]


def test_each_row_is_appended_to_directly_behind_its_own_text():
    arena = of_rows([[0, 1, 2, 3], [10], [20, 21]])
    keys = append(arena, [[5, 6], [15, 16], [25, 26]])
    assert arena.length(0) == keys.shape[2] == 6  # up to the end of the longest row
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 5, 6]
    assert keys[1, 0, :3, 0].tolist() == [10, 15, 16]
    assert keys[2, 0, :4, 0].tolist() == [20, 21, 25, 26]
    assert keys.isfinite().all(), "what a mask hides must still be a number"


def test_each_row_keeps_its_own_path_behind_its_text():
    arena = of_rows([[0, 1], [10, 11], [20, 21]])
    append(arena, [[2, 3, 4], [12, 13, 14], [22, 23, 24]])
    arena.keep({0: [0, 2], 1: [0], 2: [1, 2]})
    assert arena.lengths == [4, 3, 4]
    assert texts_of(arena, [0, 1, 2]) == [[0, 1, 2, 4], [10, 11, 12], [20, 21, 23, 24]]
    append(arena, [[5, 6], [15, 16], [25, 26]])
    arena.keep({0: [0], 1: [0, 1], 2: [0, 1]})
    assert arena.length(0) == 6
    assert texts_of(arena, [0, 1, 2]) == [
        [0, 1, 2, 4, 5],
        [10, 11, 12, 15, 16],
        [20, 21, 23, 24, 25, 26],
    ]


def test_of_rows_without_a_path_nothing_is_kept():
    arena = of_rows([[0, 1], [10], [20, 21]])
    append(arena, [[2, 3], [12, 13], [22, 23]])
    arena.keep({1: [1]})
    assert arena.lengths == [2, 2, 2]
    assert texts_of(arena, [0, 1, 2]) == [[0, 1], [10, 13], [20, 21]]


def test_commit_keeps_as_many_tokens_of_every_active_row():
    arena = of_rows([[0, 1, 2], [10], [20]])
    arena.set_active_rows([0, 1])
    append(arena, [[3, 4], [13, 14]])
    arena.keep_first(1)
    assert arena.lengths == [4, 2, 1]
    append(arena, [[5], [15]])  # behind the token that is appended and not kept yet
    arena.keep_first()
    assert texts_of(arena, [0, 1, 2]) == [[0, 1, 2, 3, 4, 5], [10, 13, 14, 15], [20]]


def test_clear_forgets_the_active_rows_alone():
    arena = of_rows([[0, 1], [10], [20, 21]])
    arena.set_active_rows([0, 2])
    append(arena, [[2], [22]])
    arena.clear()
    assert arena.lengths == [0, 1, 0]
    assert arena.length(0) == 0
    append(arena, [[5], [25]])
    arena.keep_first()
    assert texts_of(arena, [0, 1, 2]) == [[5], [10], [25]]


def test_rows_that_are_not_active_are_left_as_they_are():
    arena = of_rows([[0, 1], [10, 11, 12], [20]])
    arena.set_active_rows([0, 2])
    assert arena.active == [0, 2]
    append(arena, [[2, 3, 4], [22, 23, 24]])
    assert arena.length(0) == 5
    arena.keep({0: [0, 2], 2: [0, 1]})
    assert texts_of(arena, [0, 1, 2]) == [[0, 1, 2, 4], [10, 11, 12], [20, 22, 23]]


# Row slots that are taken and given back.


def test_the_lowest_free_row_slot_is_taken_first():
    arena = KVArena(1, 8, max_rows=4)
    assert [arena.add_row() for _ in range(3)] == [0, 1, 2]
    arena.remove_row(2)
    arena.remove_row(0)
    assert [arena.add_row() for _ in range(3)] == [0, 2, 3]
    with pytest.raises(IndexError, match="all 4 row slots are taken"):
        arena.add_row()


def test_rows_join_and_leave_without_a_copy():
    arena = of_rows([[0, 1], [10, 11], [20, 21]])
    addresses, before = arena.addresses, arena.memory(0)[0].clone()
    arena.remove_row(1)
    assert arena.active == [0, 2]
    assert arena.addresses == addresses
    assert torch.equal(arena.memory(0)[0][[0, 2]], before[[0, 2]])
    assert texts_of(arena, [0, 2]) == [[0, 1], [20, 21]]
    assert append(arena, [[2], [22]])[:, 0, :, 0].tolist() == [[0, 1, 2], [20, 21, 22]]
    assert arena.add_row() == 1
    assert arena.addresses == addresses
    assert arena.lengths[1] == 0


def test_a_row_that_joins_holds_nothing_of_the_one_that_left():
    arena = of_rows([[0, 1], [10, 11]])
    arena.remove_row(0)
    row = arena.add_row()
    arena.set_active_rows([row, 1])
    append(arena, [[5], [15]])
    arena.keep({row: [0], 1: [0]})
    assert texts_of(arena, [row, 1]) == [[5], [10, 11, 15]]


def test_a_row_that_leaves_between_append_and_keep_does_not_disturb_the_others():
    arena = of_rows([[0], [10, 11, 12]])
    append(arena, [[1, 2], [13, 14]])
    arena.remove_row(1)
    assert arena.length(0) == 3
    arena.keep({0: [1]})
    assert texts_of(arena, [0]) == [[0, 2]]


TEXTS = [[0, 1, 2, 3], [10, 11], [20, 21], [30]]


@pytest.mark.parametrize(
    "rows", [[1], [0, 1], [1, 2], [2, 3], [0, 1, 2, 3], [0, 2], [2, 1], [3, 0], [1, 3], [2, 0, 3, 1]]
)
def test_rows_that_are_neighbours_and_rows_that_are_not_get_the_same(rows):
    """Neighbours get views of the arena, others copies."""
    arena = of_rows(TEXTS)
    arena.set_active_rows(rows)
    trees = [[10 * row + 5, 10 * row + 6, 10 * row + 7] for row in rows]
    keys = append(arena, trees)
    wanted = [TEXTS[row] + tree for row, tree in zip(rows, trees, strict=True)]
    assert keys.shape == (len(rows), 1, max(map(len, wanted)), 2)
    assert torch.equal(keys, arena.view(0)[0])
    for of_row, text in zip(keys, wanted, strict=True):
        assert of_row[0, : len(text), 0].tolist() == text
    are_neighbours = rows == list(range(rows[0], rows[0] + len(rows)))
    own = arena.memory(0)[0]
    assert (keys.data_ptr() == own[rows[0]].data_ptr()) is are_neighbours
    arena.keep({row: [0, 2] for row in rows})
    kept = [text + [10 * row + 5, 10 * row + 7] * (row in rows) for row, text in enumerate(TEXTS)]
    assert texts_of(arena, [0, 1, 2, 3]) == kept


# Memory that is claimed for the caller to write, or given.


def test_room_is_claimed_in_all_layers_at_once():
    arena = filled()
    arena.keep_first()
    keys, values = arena.claim_for_writing(3)
    assert keys.shape == values.shape == (2, 1, 2, 32, 3)
    for layer in range(2):
        keys[layer, :, :, 10:13], values[layer, :, :, 10:13] = states(10, 3)[0], states(10, 3)[0]
        assert arena.length(layer) == 13
        assert held(arena, layer) == [*range(10), 10, 11, 12]
    arena.keep({0: [0, 2]})
    assert held(arena, 0) == held(arena, 1) == [*range(10), 10, 12]


def test_room_is_claimed_behind_each_rows_own_text():
    arena = of_rows([[0, 1, 2], [10], [20, 21]])
    arena.set_active_rows([2, 0])
    keys, values = arena.claim_for_writing(2)
    assert keys.shape == (1, 3, 1, 32, 2)
    assert arena.length(0) == 5
    for row in (2, 0):
        for memory in (keys, values):
            slots = slice(arena.lengths[row], arena.lengths[row] + 2)
            memory[0, row, :, slots] = batch([[10 * row + 5, 10 * row + 6]])[0]
    arena.keep({2: [1], 0: [0, 1]})
    assert texts_of(arena, [0, 1, 2]) == [[0, 1, 2, 5, 6], [10], [20, 21, 26]]


def test_what_is_claimed_grows_with_what_was_there():
    arena = filled(capacity=11)
    arena.keep_first()
    keys, _ = arena.claim_for_writing(3)
    assert arena.capacity >= keys.shape[3] >= 13
    assert keys[1, 0, 0, :10, 0].tolist() == list(range(10))


def test_what_is_claimed_may_grow_no_further_than_needed():
    arena = of_one_row(capacity=8, max_slots=10)
    arena.append(0, states(0, 8), states(0, 8))
    arena.keep_first()
    keys, _ = arena.claim_for_writing(2)
    assert keys.shape[3] == 10


def unclaimable():
    empty = of_one_row(layers=2)
    incomplete = of_one_row(layers=2)
    incomplete.append(0, states(0, 2), states(0, 2))
    of_two_widths = of_one_row(layers=2)
    for layer in range(2):
        of_two_widths.append(layer, states(0, 2, 3 + layer), states(0, 2, 3 + layer))
    out_of_order = of_one_row(layers=2)
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
    assert arena.claim_for_writing(1) is None
    assert [arena.length(layer) for layer in range(2)] == before


def test_memory_may_be_larger_than_asked_for():
    def roomy(shape, like):
        return like.new_zeros((*shape[:3], shape[3] + 10, shape[4]))

    arena = of_one_row(capacity=4, allocate=roomy)
    arena.append(0, states(0, 4), states(0, 4))
    arena.keep_first()
    before, _ = arena.memory(0)
    assert before.shape[2] == arena.room == 14
    arena.count_appended(10)
    assert arena.memory(0)[0].data_ptr() == before.data_ptr()
    arena.count_appended(GROWTH_SLOTS - 4)  # by then it has to grow
    after, _ = arena.memory(0)
    assert after.shape[2] == GROWTH_SLOTS + 10
    assert after[0, 0, :4, 0].tolist() == [0, 1, 2, 3]
    assert arena.length(0) == GROWTH_SLOTS


def test_a_row_that_leaves_leaves_no_number_behind_that_a_mask_would_have_to_hide():
    arena = KVArena(1, 16, max_rows=2)
    rows = [arena.add_row(), arena.add_row()]
    arena.set_active_rows(rows)
    poison = torch.full((2, 1, 6, 2), torch.nan)
    arena.append(0, poison, poison)
    arena.keep({rows[0]: [0, 1], rows[1]: []})
    arena.remove_row(rows[0])
    keys, values = arena.memory(0)
    assert not keys[rows[0]].any()
    assert not values[rows[0]].any()
    with pytest.raises(ValueError, match="row slot 0 is free"):
        arena.remove_row(rows[0])


def test_a_layer_that_was_never_written_holds_nothing():
    """Mllama's layers that attend to images skip themselves while their cache is empty."""
    arena = KVArena(2, 16)
    arena.set_active_rows([arena.add_row()])
    arena.append(0, torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    arena.keep_first()
    assert [arena.length(layer) for layer in (0, 1)] == [3, 0]


class ScarceMemory:
    """Allocates until `fail_at` allocations more were made, as a machine whose memory is full does."""

    def __init__(self) -> None:
        self.fail_at: int | None = None

    def __call__(self, shape, like):
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at < 0:
                message = "not enough memory"
                raise RuntimeError(message)
        return torch.full(shape, torch.nan, dtype=like.dtype)


@pytest.mark.parametrize("allocations", [0, 1, 2, 3])
def test_after_a_growth_that_failed_nothing_is_promised_that_is_not_there(allocations):
    memory = ScarceMemory()
    arena = KVArena(2, capacity=8, allocate=memory)
    arena.set_active_rows([arena.add_row()])
    for layer, width in ((0, 3), (1, 5)):  # two tensors
        arena.append(layer, states(0, 6, width), states(0, 6, width))
    arena.keep_first()
    memory.fail_at = allocations
    with pytest.raises(RuntimeError, match="not enough memory"):
        arena.append(0, states(6, 9), states(6, 9))
    assert arena.room == arena.capacity == 8
    arena.set_active_rows([0])
    with pytest.raises(RuntimeError, match="not enough memory"):
        arena.append(1, states(6, 9, 5), states(6, 9, 5))
    arena.set_active_rows([0])
    assert arena.append(0, states(6, 2), states(6, 2))[0].shape[2] == 8  # what fits is still served
    memory.fail_at = None
    arena.set_active_rows([0])
    for layer, width in ((0, 3), (1, 5)):
        arena.append(layer, states(6, 9, width), states(6, 9, width))
    arena.keep({0: [0, 8]})
    assert held(arena, 0) == held(arena, 1) == [0, 1, 2, 3, 4, 5, 6, 14]


def test_keys_and_values_have_one_layout_after_a_growth_that_failed():
    memory = ScarceMemory()
    arena = of_one_row(capacity=8, allocate=memory)
    arena.append(0, states(0, 4), states(0, 4))
    arena.keep_first()
    memory.fail_at = 1  # the keys grow, the values do not
    with pytest.raises(RuntimeError):
        arena.claim_for_writing(9)
    memory.fail_at = None
    keys, values = arena.claim_for_writing(2)
    assert keys.stride() == values.stride()
    assert keys[0, 0, 0, :4, 0].tolist() == values[0, 0, 0, :4, 0].tolist() == [0, 1, 2, 3]


def test_a_step_that_is_taken_back_leaves_no_nan():
    arena = of_one_row(capacity=16)
    arena.append(0, states(0, 4), states(0, 4))
    arena.keep_first()
    spoiled = torch.full_like(states(4, 5), torch.nan)
    arena.append(0, spoiled, spoiled)
    arena.keep({0: [0]})
    arena.append(0, states(5, 1), states(5, 1))
    arena.keep({0: []})
    keys, values = arena.memory(0)
    assert not keys[:, :, 5:9].any()
    assert not values[:, :, 5:9].any()
    assert keys[0, 0, :4, 0].tolist() == [0, 1, 2, 3]

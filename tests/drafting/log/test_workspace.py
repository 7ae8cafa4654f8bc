"""A sketch's arrays: side by side in their memory, none on another's, all as long as they must be."""

import numpy as np
import pytest

from lookahead.drafting.log.matches import AHEAD, LONGEST_MATCH, MAX_AT_ONCE
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.drafting.log.workspace import (
    SketchMemory,
    candidates_for,
    matches_for,
)

SIZES = pytest.mark.parametrize("max_nodes", [1, 2, 3, 8, 9, 64, 500])


def arrays_of(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [array for part in value for array in arrays_of(part)]


@SIZES
def test_no_two_arrays_share_a_place_and_all_lie_inside_the_memory(max_nodes):
    memory = SketchMemory(max_nodes)
    arrays = arrays_of(memory.sketch)
    for number, array in enumerate(arrays):
        assert array.base is not None
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()
        whole = memory.integers if array.dtype == np.int32 else memory.floats
        assert array.size == 0 or np.shares_memory(array, whole)
        begin = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        assert 0 <= begin <= begin + array.nbytes <= whole.nbytes
    used = sum(array.nbytes for array in arrays)
    assert memory.integers.nbytes + memory.floats.nbytes - used <= 64 + 8  # no more than a place or two idle


@SIZES
def test_arrays_are_as_long_as_they_must_be(max_nodes):
    sketch = SketchMemory(max_nodes).sketch
    matches, room = matches_for(max_nodes), candidates_for(max_nodes)
    assert [len(column) for column in sketch.tree] == [max_nodes] * 4
    assert len(sketch.sources) == max_nodes
    assert sketch.ranges.shape == (max_nodes, 2)
    assert sketch.said.nodes.shape == (max_nodes, 4)
    assert len(sketch.said.rests) == max_nodes
    assert len(sketch.frontier.chances) == len(sketch.frontier.order) == max_nodes - 1
    assert len(sketch.frontier.nodes) >= max_nodes - 1
    assert sketch.matches.following.shape == (matches, AHEAD)
    assert {len(column) for column in sketch.matches} == {matches}
    assert len(sketch.listed) == 4 * matches
    assert {len(column) for column in sketch.said[:6]} == {room}
    assert (len(sketch.following), len(sketch.successors), len(sketch.run)) == (
        MAX_AT_ONCE,
        SUCCESSORS,
        LONGEST_MATCH,
    )


def test_the_first_nodes_are_a_copy():
    memory = SketchMemory(4)
    for first, column in enumerate(memory.sketch.tree):
        column[:] = range(first, first + 4)
    tree = memory.first_nodes(2)
    for column in memory.sketch.tree:
        column[:] = 9
    assert [column.tolist() for column in tree] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert tree._fields == memory.sketch.tree._fields

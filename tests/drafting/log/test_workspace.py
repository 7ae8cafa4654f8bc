"""A workspace's arrays: side by side in their buffers, none overlaps another, all have their lengths."""

import numpy as np
import pytest

from lookahead.drafting.log.matches import AHEAD, LONGEST_MATCH, MAX_MATCHES
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.drafting.log.workspace import (
    WorkspaceBuffers,
    candidates_for,
    matches_for,
)

SIZES = pytest.mark.parametrize("max_nodes", [1, 2, 3, 8, 9, 64, 500])


def arrays_of(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [array for part in value for array in arrays_of(part)]


@SIZES
def test_no_two_arrays_share_a_cell_and_all_lie_inside_the_buffers(max_nodes):
    buffers = WorkspaceBuffers(max_nodes)
    arrays = arrays_of(buffers.workspace)
    for number, array in enumerate(arrays):
        assert array.base is not None
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()
        whole = buffers.integers if array.dtype == np.int32 else buffers.floats
        assert array.size == 0 or np.shares_memory(array, whole)
        begin = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        assert 0 <= begin <= begin + array.nbytes <= whole.nbytes
    used = sum(array.nbytes for array in arrays)
    assert (
        buffers.integers.nbytes + buffers.floats.nbytes - used <= 64 + 8
    )  # no more than a cell or two unused


@SIZES
def test_arrays_are_as_long_as_they_must_be(max_nodes):
    workspace = WorkspaceBuffers(max_nodes).workspace
    matches, room = matches_for(max_nodes), candidates_for(max_nodes)
    assert [len(column) for column in workspace.tree] == [max_nodes] * 4
    assert len(workspace.sources) == max_nodes
    assert workspace.ranges.shape == (max_nodes, 2)
    assert workspace.predictions.nodes.shape == (max_nodes, 4)
    assert len(workspace.predictions.none_evidence) == max_nodes
    assert len(workspace.frontier.probabilities) == len(workspace.frontier.order) == max_nodes - 1
    assert len(workspace.frontier.nodes) >= max_nodes - 1
    assert workspace.matches.continuations.shape == (matches, AHEAD)
    assert {len(column) for column in workspace.matches} == {matches}
    assert len(workspace.listed) == 4 * matches
    assert {len(column) for column in workspace.predictions[:7]} == {room}
    assert (len(workspace.votes), len(workspace.successors), len(workspace.run)) == (
        MAX_MATCHES,
        SUCCESSORS,
        LONGEST_MATCH,
    )


def test_the_first_nodes_are_a_copy():
    buffers = WorkspaceBuffers(4)
    for first, column in enumerate(buffers.workspace.tree):
        column[:] = range(first, first + 4)
    tree = buffers.first_nodes(2)
    for column in buffers.workspace.tree:
        column[:] = 9
    assert [column.tolist() for column in tree] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert tree._fields == buffers.workspace.tree._fields

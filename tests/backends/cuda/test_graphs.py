"""Steps in static buffers: what is computed on the device out of a few integers is what the CPU computes."""

import weakref

import numpy as np
import pytest
import torch

from lookahead.backends.cuda.capture import NoCapture
from lookahead.backends.cuda.graphs import StaticStep, StepMemory
from lookahead.backends.cuda.packed_trees import (
    MAX_MOVES,
    NODE_BUCKETS,
    PackedTrees,
    columns_for,
    context_slots,
    node_bucket,
    pack,
)
from lookahead.decoding.attention.tree_mask import tree_mask
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree

TREE = DraftTree(
    np.array([9, 8, 7, 6, 5, 4], np.int32),
    np.array([-1, 0, 1, 0, 3, 3], np.int32),
    np.array([0, 1, 2, 1, 2, 2], np.int32),
    np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5]),
)
LENGTH, SLOTS = 9, 24
ROWS = [
    TreeRow(TREE, LENGTH),
    TreeRow(DraftTree.chain([3, 2]), 7, torch.tensor([0, 0, 1, 1])),
    TreeRow(DraftTree.chain([1]), LENGTH, torch.tensor([1, 1])),
]


def packed_rows(rows=ROWS, nodes=8, moves=None):
    packed = torch.full((len(rows), columns_for(nodes)), -7)
    tokens = torch.arange(len(rows) * nodes).view(len(rows), nodes)
    pack(packed, tokens, tokens + 100, rows, moves)
    return PackedTrees(packed)


def test_what_is_packed_is_read_again():
    trees = packed_rows()
    assert trees.size == 8
    assert trees.tokens.flatten().tolist() == list(range(24))
    assert trees.positions.flatten().tolist() == list(range(100, 124))
    assert trees.slots.tolist() == [list(range(row.length, row.length + 8)) for row in ROWS]


def test_moves_that_are_not_given_leave_slot_0_where_it_is():
    sources, targets = packed_rows(moves={1: [(11, 9), (12, 10)]}).moves
    assert sources.shape == targets.shape == (3, MAX_MOVES)
    assert (sources[1, :2].tolist(), targets[1, :2].tolist()) == ([11, 12], [9, 10])
    assert sources.sum() == 23
    assert targets.sum() == 19


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "chunk"), [(None, None), (1, None), (4, None), (None, 3), (8, 5)])
def test_the_mask_is_the_one_made_on_the_cpu(window, chunk, dtype):
    mask = packed_rows().mask(SLOTS, dtype, window=window, chunk=chunk)
    expected = tree_mask(ROWS, dtype, size=8, window=window, chunk=chunk)
    assert mask.dtype == dtype
    for row, of_device, of_row in zip(ROWS, mask, expected, strict=True):
        nodes = len(row.tree)
        assert torch.equal(of_device[:, :nodes, : LENGTH + 8], of_row[:, :nodes])
    assert (mask[..., LENGTH + 8 :] < 0).all()  # whatever is there
    assert (mask.amax(-1) == 0).all()  # behind a tree, too, something is seen: no softmax over nothing


def test_the_largest_tree_fills_all_bits():
    chain = DraftTree.chain(list(range(NODE_BUCKETS[-1])))
    trees = packed_rows([TreeRow(chain, LENGTH)], nodes=len(chain))
    expected = tree_mask([TreeRow(chain, LENGTH)], torch.float32, size=len(chain))
    assert torch.equal(trees.mask(LENGTH + len(chain), torch.float32), expected)


def test_shapes_are_rounded_up_so_that_they_repeat():
    assert [node_bucket(nodes) for nodes in (1, 3, 16, 17, 64, 65)] == [1, 4, 16, 24, 64, None]
    for slots in (1, 256, 257, 1000, 1025, 5000, 100_000):
        assert slots <= context_slots(slots) <= max(slots + 255, slots * 5 // 4)
        assert context_slots(slots) % 256 == 0
    assert len({context_slots(slots) for slots in range(4097, 8193)}) == 4


def test_a_step_is_done_as_it_is_first_and_then_captured():
    runs, captured = [], []

    def run(trees):
        runs.append(trees.packed)
        return torch.nn.functional.one_hot(trees.tokens, 10).float()

    def capture(step):
        captured.append(step)
        return NoCapture()(step)

    step = StaticStep(run, StepMemory(NoCapture()), 1, 2, torch.device("cpu"))
    rows = [TreeRow(DraftTree.chain([5, 6]), 3)]
    for use in range(3):
        assert step.is_repeated is (use > 1)
        verified = step(capture, torch.tensor([[use, 6]]), torch.tensor([[3, 4]]), rows)
        assert verified.logits.argmax(-1).tolist() == [[use, 6]]
        assert step.copied_back(verified)[0, :, 0].tolist() == [use, 6]
        assert len(captured) == min(use, 1)
    assert len({packed.data_ptr() for packed in runs}) == 1  # one buffer, or a graph would read old tokens


def test_memory_comes_back_at_the_same_address_and_empty():
    memory, like = StepMemory(NoCapture()), torch.ones(1)
    first = memory.allocate((2, 1, 2, 300, 4), like)
    assert first.shape == (2, 1, 2, 512, 4)
    memory.steps["a step"] = None  # type: ignore[assignment]
    first.fill_(torch.nan)
    memory.begin()
    again = memory.allocate((2, 1, 2, 400, 4), like)
    assert again.data_ptr() == first.data_ptr()
    assert not again.any()
    assert memory.steps


@pytest.mark.parametrize("shape", [(2, 1, 2, 600, 4), (2, 3, 2, 300, 4), (2, 1, 2, 300, 5)])
def test_steps_of_memory_that_does_not_fit_are_forgotten(shape):
    memory, like = StepMemory(NoCapture()), torch.ones(1)
    memory.allocate((2, 1, 2, 300, 4), like)
    memory.steps["a step"] = None  # type: ignore[assignment]
    memory.begin()
    assert memory.allocate(shape, like).shape[3] >= shape[3]
    assert not memory.steps


def test_old_memory_is_let_go_before_more_is_allocated(monkeypatch):
    memory, like = StepMemory(NoCapture()), torch.ones(1)
    old = [weakref.ref(memory.allocate((2, 1, 2, 300, 4), like)) for _ in ("keys", "values")]
    memory.begin()
    own, held = torch.zeros, []

    def allocated(*arguments, **given):
        held.append([tensor() is not None for tensor in old])
        return own(*arguments, **given)

    monkeypatch.setattr(torch, "zeros", allocated)
    memory.allocate((2, 1, 2, 600, 4), like)
    assert held == [[False, False]]


def test_all_steps_share_one_tensor_of_logits():
    memory = StepMemory(NoCapture())
    large, small = memory.logits_like(torch.ones(1, 4, 9)), memory.logits_like(torch.ones(1, 2, 9))
    assert small.data_ptr() == large.data_ptr()
    assert small.shape == (1, 2, 9)


def test_outgrown_memory_is_let_go():
    memory, like = StepMemory(NoCapture()), torch.ones(1)
    for slots in (300, 300, 600, 600):
        memory.allocate((2, 1, 2, slots, 4), like)
    memory.begin()
    assert [tensor.shape[3] for tensor in memory._spare] == [768, 768]

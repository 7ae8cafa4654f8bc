"""Verified steps in static buffers, which a CUDA graph can repeat.

A graph repeats kernels with the arguments they had. So whatever changes from step to step is content of
buffers, never an argument: tokens, positions, where keys and values are written, and the few numbers from
which the mask is computed on the device. They travel there in one copy. What is an argument, the shapes,
is rounded up, so that it repeats.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.attention.visibility import TreeRow, first_visible
from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.tree import DraftTree

NODE_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""Nodes that a step is captured for; more than 64 do not fit in the bits of an integer."""
_SMALLEST_CONTEXT = 256
_COLUMNS = 4
"""Columns of each node: token, position, depth, ancestors."""
_SCALARS = 2
"""Columns of each row: its length, its padding on the left."""

Verified = tuple[Tensor, Tensor]
"""Logits [B, n, V] and each node's likeliest token, int64 [B, n]."""


def node_bucket(nodes: int) -> int | None:
    """Return the nodes of the step that is captured for so many; None where there is none so large."""
    return next((bucket for bucket in NODE_BUCKETS if bucket >= nodes), None)


def context_slots(slots: int) -> int:
    """Return the slots that a step for so many attends to: at most a quarter more, or a multiple of 256."""
    step = max(_SMALLEST_CONTEXT, 1 << max(0, slots - 1).bit_length() >> 3)
    return -(-slots // step) * step


class Capture(Protocol):
    """Makes a step that has run before repeatable."""

    def __call__(self, step: Callable[[], Verified]) -> Callable[[], Verified]:
        """Return what repeats the step over the present content of its buffers."""


class NoCapture:
    """Repeats a step by doing it again: on devices without graphs, and in tests."""

    def __call__(self, step: Callable[[], Verified]) -> Callable[[], Verified]:
        """Return the step."""
        return step


class CudaCapture:
    """Captures steps as CUDA graphs, which share one pool of memory: only one of them may run at a time.

    Args:
        device: Where they run.
        lock: Held while one is captured; all captures on the device share it.
    """

    def __init__(self, device: torch.device, lock: AbstractContextManager[Any]) -> None:
        self._device = device
        self._lock = lock
        self._pool: Any = None
        self._side: Any = None  # one stream for all: libraries keep a workspace for each that they have seen

    def __call__(self, step: Callable[[], Verified]) -> Callable[[], Verified]:
        """Return what replays the step's kernels; it holds what they write, not the step.

        Raises:
            RuntimeError: the step waits for the device or does something else that no graph can hold.
        """
        with self._lock, torch.cuda.device(self._device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
                self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            try:
                verified = self._captured(graph, step)
            finally:
                torch.cuda.set_stream(current)  # where capturing fails, torch may leave the other one current

        def replay() -> Verified:
            graph.replay()
            return verified

        return replay

    def _captured(self, graph: torch.cuda.CUDAGraph, step: Callable[[], Verified]) -> Verified:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):  # libraries set themselves up outside the graph
            step()
        torch.cuda.current_stream().wait_stream(self._side)
        # Other threads may go on allocating meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
            return step()


@dataclass(frozen=True)
class PackedTrees:
    """A batch's trees as one tensor of integers, and what a step reads out of it on the device.

    Attributes:
        packed: int64 [B, 4n + 2]: tokens, positions, depths, ancestors as bits; length, left padding.
    """

    packed: Tensor

    @property
    def size(self) -> int:
        """Nodes of each row: n."""
        return (self.packed.shape[1] - _SCALARS) // _COLUMNS

    @property
    def tokens(self) -> Tensor:
        """int64 [B, n]."""
        return self._column(0)

    @property
    def positions(self) -> Tensor:
        """int64 [B, n]."""
        return self._column(1)

    @property
    def slots(self) -> Tensor:
        """int64 [B, n], where the nodes' keys and values are written."""
        return self.packed[:, -_SCALARS:][:, :1] + torch.arange(self.size, device=self.packed.device)

    def mask(
        self, slots: int, dtype: torch.dtype, *, window: int | None = None, chunk: int | None = None
    ) -> Tensor:
        """Return what `tree_mask` returns, [B, 1, n, slots], computed where the trees are.

        Padding is on the left only; a tree that is smaller than others is padded with copies of node 0.
        """
        length, padding = (scalar[:, None] for scalar in self.packed[:, -_SCALARS:].unbind(1))  # [B, 1]
        slot = torch.arange(slots, device=self.packed.device)[None]
        node = (slot - length).clamp(0, self.size - 1)  # [B, slots]
        is_tree = (slot >= length) & (slot < length + self.size)
        depths = self._column(2)
        place = torch.where(is_tree, length + depths.gather(1, node), slot)[:, None]
        first = first_visible(length + depths, padding, window, chunk)[:, :, None]
        is_ancestor = (self._column(3)[:, :, None] >> node[:, None]) & 1 == 1
        is_cached = (slot < length)[:, None]
        seen = (place >= first) & torch.where(is_tree[:, None], is_ancestor, is_cached)
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, lowest)[:, None]

    def _column(self, index: int) -> Tensor:
        return self.packed[:, index * self.size : (index + 1) * self.size]


def pack(packed: Tensor, tokens: Tensor, positions: Tensor, rows: Sequence[TreeRow]) -> None:
    """Write a batch's trees as `PackedTrees` reads them.

    Args:
        packed: int64 [B, 4n + 2], on the CPU.
        tokens: int64 [B, n]; after a tree anything.
        positions: int64 [B, n].
        rows: B trees of n nodes at most, padded on the left at most.
    """
    size, table = PackedTrees(packed).size, packed.numpy()
    columns = table[:, : _COLUMNS * size].reshape(len(rows), _COLUMNS, size)  # a view
    columns[:, 0], columns[:, 1] = tokens.numpy(), positions.numpy()
    columns[:, 2], columns[:, 3] = 0, 1  # after a tree: depth 0, sees node 0
    for of_row, scalars, row in zip(columns, table[:, -_SCALARS:], rows, strict=True):
        nodes = len(row.tree)
        of_row[2, :nodes] = row.tree.depths
        of_row[3, :nodes] = _ancestor_bits(row.tree)
        scalars[:] = row.length, row.left_padding


def _ancestor_bits(tree: DraftTree) -> Int64Array:
    """Return int64 [n]: in each node's bits, which nodes it sees."""
    bits = np.zeros((len(tree), NODE_BUCKETS[-1]), np.bool_)
    bits[:, : len(tree)] = tree.ancestors()
    return np.packbits(bits, axis=1, bitorder="little").view("<i8")[:, 0].astype(np.int64)


class StaticStep:
    """A step of one shape: its buffers, and how it is done; captured when it is used for the second time.

    The first time it is done as it is: whatever it sets up then is no part of what is captured.

    Args:
        run: maps the packed trees [B, 4n + 2], always the same tensor, to logits and likeliest tokens.
        rows: B.
        nodes: n.
        device: where it runs.
    """

    def __init__(
        self, run: Callable[[PackedTrees], Verified], rows: int, nodes: int, device: torch.device
    ) -> None:
        shape = (rows, _COLUMNS * nodes + _SCALARS)
        self._host = torch.zeros(shape, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
        self._packed = torch.zeros(shape, dtype=torch.int64, device=device)
        packed = self._packed
        self._repeat: Callable[[], Verified] = lambda: run(PackedTrees(packed))
        self._uses = 0
        self.is_repeated = False

    def __call__(
        self, capture: Capture, tokens: Tensor, positions: Tensor, rows: Sequence[TreeRow]
    ) -> Verified:
        """Verify trees, as given to `pack`; what is returned is overwritten by the next step.

        Raises:
            Exception: whatever the step or capturing it raises.
        """
        pack(self._host, tokens, positions, rows)
        self._packed.copy_(self._host, non_blocking=True)  # every step is waited for before the next
        if self._uses == 1:
            self._repeat = capture(self._repeat)
            self.is_repeated = True
        self._uses += 1
        return self._repeat()


class StepMemory:
    """A cache's memory, lent from call to call so that its addresses repeat, and the steps captured there.

    Serves one call at a time.

    Args:
        capture: captures the steps.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.steps: dict[Hashable, StaticStep] = {}
        self._spare: list[Tensor] = []
        self._lent: list[Tensor] = []

    def begin(self) -> None:
        """Take back what the last call used; what a call does not ask for again is let go after it."""
        self._spare, self._lent = self._lent, []

    def allocate(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return zeros, [layers, B, heads, capacity or more, width], like a tensor in all else.

        Zeros, because a step reads all of it: what a mask hides must still be a number.
        """
        for index, tensor in enumerate(self._spare):
            if _fits(tensor, shape, like):
                self._lent.append(self._spare.pop(index).zero_())
                return tensor
        self.steps.clear()  # they are of other addresses, and would hold on to their memory
        slots = context_slots(shape[3] + NODE_BUCKETS[-1])  # trees are rounded up, too
        shape = (*shape[:3], slots, shape[4])
        # Of one kind, smaller ones are outgrown.
        self._lent = [
            lent for lent in self._lent if not _alike(lent, shape, like) or _fits(lent, shape, like)
        ]
        self._lent.append(like.new_zeros(shape))
        return self._lent[-1]


def _alike(tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> bool:
    same = (tensor.dtype, tensor.device) == (like.dtype, like.device)
    return same and (*tensor.shape[:3], tensor.shape[4]) == (*shape[:3], shape[4])


def _fits(tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> bool:
    return _alike(tensor, shape, like) and tensor.shape[3] >= shape[3]

"""The memory of layers of one shape, of which `KVArena` manages the rows and slots."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Allocate = Callable[[tuple[int, ...], Tensor], Tensor]
"""Returns memory [layers, rows, heads, capacity or more, width] with the dtype and device of a tensor."""


@dataclass(eq=False)
class Slab:
    """Keys and values of all layers of one shape, dtype and device.

    Attributes:
        keys: [layers, rows, heads, capacity, width].
        values: Likewise.
        allocate: Returns new memory.
        layers: Layers in use.
    """

    keys: Tensor
    values: Tensor
    allocate: Allocate
    layers: int = 0

    def resize(self, rows: int, capacity: int, length: int) -> None:
        """Move to tensors of other sizes, keeping the first `length` slots of each row and layer in use."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            if old.shape[1] < rows or old.shape[3] < capacity:
                layers, _, heads, _, width = old.shape
                new = self.allocate((layers, rows, heads, capacity, width), old)
                kept_rows, kept = min(rows, old.shape[1]), min(length, old.shape[3])
                new[: self.layers, :kept_rows, :, :kept] = old[: self.layers, :kept_rows, :, :kept]
                setattr(self, name, new)

    def promote(self, dtype: torch.dtype) -> None:
        """Hold a wider dtype from now on, as concatenating to a tensor of another dtype does."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self.allocate(tuple(old.shape), old.new_empty(0, dtype=dtype))
            new[:, :, :, : old.shape[3]] = old
            setattr(self, name, new)

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        """Copy, in each layer, slots `sources` of `rows` to slots `targets`.

        Args:
            rows: int64 [m] or [B, 1], on the device of the memory, as are the others.
            sources: int64 [m] or [B, m].
            targets: Likewise.
        """
        for tensor in (self.keys, self.values):
            used = tensor[: self.layers].transpose(2, 3)  # [layers, rows, capacity, heads, width]
            used[:, rows, targets] = used[:, rows, sources]


class PendingMoves:
    """Slots that the accepted paths move to, directly after their rows' texts.

    They may wait for the next use of the memory, or for a step that does them first: in a CUDA graph they
    cost no launch of their own.

    Args:
        slabs: The memory, by kind.

    Attributes:
        are_deferred: Whether they wait.
    """

    def __init__(self, slabs: Mapping[tuple[object, ...], Slab]) -> None:
        self._slabs = slabs
        self._moves: list[tuple[int, int, int]] = []
        self.are_deferred = False

    def add(self, row: int, length: int, path: Sequence[int]) -> None:
        """Note that the nodes of a path move behind a row's text, of so many slots."""
        moved = [(row, length + node, length + index) for index, node in enumerate(path) if node != index]
        self._moves += moved

    def apply(self) -> None:
        """Do the moves now."""
        if not self._moves:
            return
        moves, self._moves = torch.tensor(self._moves, device="cpu").T.contiguous(), []
        of_device: dict[torch.device, Tensor] = {}
        for slab in self._slabs.values():
            device = slab.keys.device
            if device not in of_device:
                of_device[device] = moves.to(device, non_blocking=True)  # one copy for all
            slab.move(*of_device[device])

    def take(self, rows: int, limit: int) -> dict[int, list[tuple[int, int]]]:
        """Return the moves for the caller to do; where it cannot do them all, they are done here.

        Args:
            rows: The caller does those of the row slots below.
            limit: Of each row slot it does so many at most.

        Returns:
            Sources and targets by row slot.
        """
        found: dict[int, list[tuple[int, int]]] = {}
        for row, source, target in self._moves:
            found.setdefault(row, []).append((source, target))
        if any(row >= rows or len(of_row) > limit for row, of_row in found.items()):
            self.apply()
            return {}
        self._moves = []
        return found

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        """Copy slots of rows in all layers; the arguments are those of `Slab.move`."""
        for slab in self._slabs.values():
            slab.move(rows, sources, targets)


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return memory that holds zeros."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # numpy leaves pages that are never written to unallocated; torch would write zeros to all of them.
    size = like.element_size() * math.prod(shape)
    return torch.from_numpy(np.zeros(size, np.uint8)).view(like.dtype).view(shape)


def uninitialised(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return memory that may hold anything."""
    return like.new_empty(shape)

"""The memory of layers of one shape, of which `KVArena` manages the rows and slots."""

import math
from collections.abc import Callable
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
        """Copy, in each layer, slots `sources` of `rows` to slots `targets`; all are int64 [m]."""
        device = self.keys.device
        rows, sources, targets = (index.to(device, non_blocking=True) for index in (rows, sources, targets))
        for tensor in (self.keys, self.values):
            used = tensor[: self.layers].transpose(2, 3)  # [layers, rows, capacity, heads, width]
            used[:, rows, targets] = used[:, rows, sources]


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

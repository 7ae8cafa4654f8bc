"""Attention by the CPU decoder's kernels as a function of tensors, in vectors or in tile registers."""

from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from helpers.cpu_kernels import TILES, has_tiles, holds_bfloat16, wrapper
from lookahead.backends.cpu import layer_attention
from lookahead.backends.cpu.kernels import amx
from lookahead.backends.cpu.kernels.attention.pieces import Trees, attend, gather
from lookahead.backends.cpu.kernels.attention.workspace import (
    Heads,
    attention_integers,
    attention_scratch,
    sums_of_thread,
)
from lookahead.backends.cpu.kernels.pointers import bfloat16_pointer, float_pointer, int_pointer
from lookahead.backends.cpu.tables import TreeTables


@wrapper
def _attention(trees, heads, sums, workers, taken, tiles, out):
    if tiles != 0:
        amx.begin_tiles(tiles)
    for worker in range(workers):  # with an address, the first worker takes all pieces
        attend(trees, heads, sums, out, int_pointer(taken), taken != 0, worker, workers)
    for worker in range(workers):
        gather(trees, heads, sums, out, worker, workers)
    if tiles != 0:
        amx.end_tiles()


@wrapper
def _attention_at(is_bfloat16, counts, tables, at, sizes, scale, workers, taken, tiles, out):
    rows, tail, spans = counts
    trees = Trees(
        rows,
        int_pointer(tables[0]),
        int_pointer(tables[1]),
        int_pointer(tables[2]),
        int_pointer(tables[3]),
        int_pointer(tables[4]),
        int_pointer(tables[5]),
        int_pointer(tables[6]),
        int_pointer(tables[7]),
        tail,
        spans,
    )
    totals, states, scratch = float_pointer(at[0]), float_pointer(at[1]), float_pointer(at[2])
    row_stride, head_stride, heads, key_heads, width = sizes
    if is_bfloat16:
        queries, keys, values = bfloat16_pointer(at[3]), bfloat16_pointer(at[4]), bfloat16_pointer(at[5])
        shape = Heads(
            queries, keys, values, row_stride, head_stride, heads, key_heads, width, scale, tiles != 0
        )
        of_bfloat16 = sums_of_thread(totals, states, shape, scratch, at[6])
        _attention(trees, shape, of_bfloat16, workers, taken, tiles, bfloat16_pointer(out))
    else:
        floats, read, weighed = float_pointer(at[3]), float_pointer(at[4]), float_pointer(at[5])
        of_floats = Heads(
            floats, read, weighed, row_stride, head_stride, heads, key_heads, width, scale, False
        )
        sums = sums_of_thread(totals, states, of_floats, scratch, at[6])
        _attention(trees, of_floats, sums, workers, taken, 0, float_pointer(out))


class Attention(NamedTuple):
    """Draft trees or prompts after a cached text, and their queries.

    Attributes:
        rows: B trees; padding is on the left.
        cache_rows: The row of the cache that holds each row.
        queries: [B, n, heads, width].
        keys: [cache rows, key heads, slots, width].
        values: Likewise.
        window: Places that a token sees, or None.
        uses_tiles: Whether products are taken in tile registers; if None, wherever there are any.
        is_ragged: Whether each row has only its tree's nodes in the forward pass, else n of them.
    """

    rows: list[Any]
    cache_rows: list[int]
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    window: int | None = None
    uses_tiles: bool | None = None
    is_ragged: bool = False

    @property
    def takes_tiles(self) -> bool:
        """Whether products are taken in tile registers."""
        return has_tiles(self.queries.dtype) if self.uses_tiles is None else self.uses_tiles

    def attended(self, workers: int = 1, spare_spans: int = 0) -> torch.Tensor:
        """Return [B, n, heads, width], computed by `workers` workers one after the other.

        Nodes that are not in the forward pass get zeros.
        """
        batch, size, heads, width = self.queries.shape
        trees = TreeTables.of(
            self.rows,
            size=None if self.is_ragged else size,
            cache_rows=self.cache_rows,
            windows=[self.window],
        )
        nodes = torch.cat([torch.arange(size) < end - begin for begin, end in _pairs(trees.begins)])
        queries = self.queries.reshape(batch * size, heads, width)[nodes].contiguous()
        attended = torch.zeros(batch * size, heads, width, dtype=queries.dtype)
        attended[nodes] = self._attended_of(queries, trees, workers, trees.spans + spare_spans)
        return attended.view(batch, size, heads, width)

    def _attended_of(
        self, queries: torch.Tensor, trees: TreeTables, workers: int, spans: int
    ) -> torch.Tensor:
        """Return [N, heads, width] of queries of this shape; sums are as long as they have to be."""
        (_, heads, width), key_heads = queries.shape, self.keys.shape[1]
        summed = trees.summed_nodes * heads * spans
        sums = torch.full((summed + 1, width), torch.nan), torch.full((summed + 1, 2), torch.nan)
        scratch = torch.full((attention_scratch(heads, key_heads, width),), torch.nan)
        integers = torch.zeros(attention_integers(heads, key_heads), dtype=torch.int64)
        out = torch.full_like(queries, torch.nan)
        tensors = (*sums, scratch, queries, self.keys, self.values, integers)
        tables = (
            trees.begins, trees.cache_rows, trees.lengths, trees.starts, trees.chains, trees.places,
            trees.firsts, trees.slots,
        )  # fmt: skip
        _attention_at(
            holds_bfloat16(out), (len(self.rows), trees.slots.shape[1], spans),
            tuple(array.ctypes.data for array in tables), tuple(tensor.data_ptr() for tensor in tensors),
            (*self.keys.stride()[:2], heads, key_heads, width), np.float32(width**-0.5), workers, 0,
            TILES.ctypes.data if self.takes_tiles else 0, out.data_ptr(),
        )  # fmt: skip
        assert all(of_all[-1].isnan().all() for of_all in sums), "sums are written behind their end"
        return out

    def in_a_layer(self) -> torch.Tensor:
        """Return [B, n, heads, width], computed by `attend_in_layer`."""
        tensors = (self.queries.transpose(1, 2), self.keys, self.values)
        team = layer_attention.team_for(*tensors)
        assert team is not None
        size, scaling = self.queries.shape[1], self.queries.shape[3] ** -0.5
        windows = [None, 3, self.window]  # of three kinds of layers
        trees = TreeTables.of(self.rows, size=size, cache_rows=self.cache_rows, windows=windows)
        with patch.object(layer_attention, "may_use_tiles", lambda: self.takes_tiles):
            return layer_attention.attend_in_layer(
                *tensors, trees, scaling=scaling, window_index=2, team=team
            )


def _pairs(begins: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True))

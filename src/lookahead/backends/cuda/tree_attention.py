"""Tree attention by Triton kernels over a cache's whole memory: no mask, no copies, any length of context."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lookahead.backends.cuda.packed_trees import columns_for

MAX_SPLITS = 32
_MAX_QUERIES = 64
"""Queries of one key head in a tile."""
_MIN_QUERIES = 16
"""The least rows of a product on tensor cores."""
_MAX_WIDTH = 256
_WIDE = 128
"""Heads that are wider are read in smaller blocks, which fit the processors' shared memory."""
_PROGRAMS_PER_PROCESSOR = 2


def why_no_kernel(device: torch.device) -> str:
    """Return why the kernels cannot run for a device, in words; empty if they can."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    return "Triton is not installed" if find_spec("triton") is None else ""


def splits_for(rows: int, key_heads: int, queries: int, processors: int) -> int:
    """Return into how many parts the context is split: as many as fill the device's processors.

    A power of two that depends on shapes alone, because a graph repeats it for every length.

    Args:
        rows: B.
        key_heads: Heads of keys.
        queries: Queries of each key head: nodes times the group.
        processors: Streaming multiprocessors of the device.
    """
    tiles = rows * key_heads * -(-queries // _MAX_QUERIES)
    wanted = max(1, _PROGRAMS_PER_PROCESSOR * processors // tiles)
    return min(MAX_SPLITS, 1 << (wanted - 1).bit_length())


def supports(dtype: torch.dtype, key_width: int, value_width: int) -> bool:
    """Return whether the kernels take heads of these widths in this dtype."""
    is_float = dtype in (torch.float16, torch.bfloat16, torch.float32)
    return is_float and max(key_width, value_width) <= _MAX_WIDTH


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    packed: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    row_table: Tensor | None = None,
    block_table: Tensor | None = None,
    begins: Tensor | None = None,
    max_nodes: int | None = None,
    splits: int | None = None,
) -> Tensor:
    """Return what each node attends to: what `PackedTrees.mask` shows it.

    Args:
        query: [B, heads, n, width]; [1, heads, N, width] with `begins`, one row's nodes after the other's.
        keys: [rows, key heads, slots, width]; the last stride is 1. The trees' own keys are in it.
        values: [rows, key heads, slots, value width], likewise.
        packed: int64 [B, columns], see `PackedTrees`.
        scaling: Factor on the scores.
        window: Places that a token sees, itself included; None for all.
        chunk: Places of a chunk; None where there are none.
        softcap: Upper bound of the scores, which a tanh applies, or None.
        sinks: [heads], a score of each head that takes weight and gives nothing, or None.
        row_table: int64 [B], the row of the cache of each row; None for the first B rows.
        block_table: int64 [B, blocks]: the row of the cache that holds each block of a row's slots, if the
            cache's rows are blocks that requests share; each has as many slots as a row of `keys`.
        begins: int64 [B + 1], where each row's nodes begin in `query`, at least one, and where the last row's
            end. What follows is not computed.
        max_nodes: With `begins`, the most nodes of a row, for which `packed` has columns.
        splits: Into how many parts the context is split, a power of two; None for as many as fill the device.

    Returns:
        [B, n, heads, value width], or [1, N, heads, value width].
    """
    nodes = query.shape[2] if max_nodes is None else max_nodes
    if splits is None:
        queries = nodes * query.shape[1] // keys.shape[1]
        splits = splits_for(len(packed), keys.shape[1], queries, _processors(query.device))
    result: Tensor = torch.ops.lookahead.tree_attention(
        query,
        keys,
        values,
        packed,
        sinks,
        row_table,
        block_table,
        begins,
        nodes,
        scaling,
        *(softcap or 0.0, window or 0, chunk or 0, splits),
    )
    return result


@torch.library.custom_op("lookahead::tree_attention", mutates_args=())
def _tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    packed: Tensor,
    sinks: Tensor | None,
    row_table: Tensor | None,
    block_table: Tensor | None,
    begins: Tensor | None,
    nodes: int,
    scaling: float,
    softcap: float,
    window: int,
    chunk: int,
    splits: int,
) -> Tensor:
    """Launch the two kernels; see `tree_attention`."""
    assert packed.shape[1] == columns_for(nodes), "packed for other trees"  # noqa: S101
    assert keys.stride(3) == values.stride(3) == query.stride(3) == packed.stride(1) == 1  # noqa: S101
    assert begins is not None or query.shape[2] == nodes, "other queries than nodes"  # noqa: S101
    result = query.new_empty(len(query), query.shape[2], query.shape[1], values.shape[3])
    shape = _Shape.of(query, keys, values, nodes, splits)
    tables, options = (row_table, block_table, begins), (scaling, softcap, window, chunk)
    parts = _launch_parts(shape, query, keys, values, packed, tables, options)
    _launch_join(shape, len(packed), keys.shape[1], parts, sinks, begins, result)
    return result


@dataclass(frozen=True)
class _Shape:
    """The constants of a launch; see `tree_kernel`."""

    nodes: int
    group: int
    key_width: int
    value_width: int
    key_lanes: int
    value_lanes: int
    queries: int
    all_queries: int
    splits: int

    @classmethod
    def of(cls, query: Tensor, keys: Tensor, values: Tensor, nodes: int, splits: int) -> "_Shape":
        group = query.shape[1] // keys.shape[1]
        tile = min(_MAX_QUERIES, max(_MIN_QUERIES, _power_of_two(nodes * group)))
        widths = query.shape[3], values.shape[3]
        lanes = [max(_MIN_QUERIES, _power_of_two(width)) for width in widths]
        every = -(-nodes * group // tile) * tile
        return cls(nodes, group, widths[0], widths[1], lanes[0], lanes[1], tile, every, splits)


def _launch_parts(
    shape: _Shape,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    packed: Tensor,
    tables: tuple[Tensor | None, Tensor | None, Tensor | None],
    options: tuple[float, float, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to each split; return sums, the largest scores and the weights."""
    from lookahead.backends.cuda import tree_kernel  # noqa: PLC0415  # Triton may be missing

    pairs = len(packed) * keys.shape[1]
    parts = (pairs, shape.splits, shape.all_queries)
    sums = torch.empty(*parts, shape.value_lanes, dtype=torch.float32, device=query.device)
    tops, weights = (torch.empty(parts, dtype=torch.float32, device=query.device) for _ in range(2))
    is_wide = max(shape.key_lanes, shape.value_lanes) > _WIDE or query.dtype == torch.float32
    _, softcap, window, chunk = options
    row_table, block_table, begins = tables
    query_row = query.stride(0) if begins is None else 0
    tree_kernel.attend_to_part[(shape.splits, pairs, shape.all_queries // shape.queries)](
        *(query, keys, values, packed, *tables, sums, tops, weights, *options),
        *(query_row, *query.stride()[1:3], *keys.stride()[:3], *values.stride()[:3]),
        *(packed.stride(0), 0 if block_table is None else block_table.stride(0), keys.shape[1]),
        NODES=shape.nodes,
        GROUP=shape.group,
        KEY_WIDTH=shape.key_width,
        VALUE_WIDTH=shape.value_width,
        KEY_LANES=shape.key_lanes,
        VALUE_LANES=shape.value_lanes,
        QUERIES=shape.queries,
        ALL_QUERIES=shape.all_queries,
        BLOCK=32 if is_wide else 64,
        BLOCK_TOKENS=keys.shape[2],
        SPLITS=shape.splits,
        HAS_SOFTCAP=softcap > 0,
        HAS_WINDOW=window > 0,
        HAS_CHUNK=chunk > 0,
        HAS_ROW_TABLE=row_table is not None,
        HAS_BLOCK_TABLE=block_table is not None,
        HAS_BEGINS=begins is not None,
        num_stages=2,
    )
    return sums, tops, weights


def _launch_join(
    shape: _Shape,
    rows: int,
    key_heads: int,
    parts: tuple[Tensor, Tensor, Tensor],
    sinks: Tensor | None,
    begins: Tensor | None,
    result: Tensor,
) -> None:
    """Add the splits up."""
    from lookahead.backends.cuda import tree_kernel  # noqa: PLC0415

    tree_kernel.join_parts[(shape.nodes * shape.group, rows * key_heads)](
        *(*parts, sinks, begins, result),
        *(result.stride(0) if begins is None else 0, *result.stride()[1:3]),
        key_heads,
        NODES=shape.nodes,
        GROUP=shape.group,
        VALUE_WIDTH=shape.value_width,
        VALUE_LANES=shape.value_lanes,
        ALL_QUERIES=shape.all_queries,
        SPLITS=shape.splits,
        HAS_SINKS=sinks is not None,
        HAS_BEGINS=begins is not None,
    )


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@_tree_attention.register_fake
def _(query: Tensor, _keys: Tensor, values: Tensor, *_others: object) -> Tensor:
    rows, heads, nodes, _ = query.shape
    return query.new_empty(rows, nodes, heads, values.shape[3])


@lru_cache(maxsize=16)
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

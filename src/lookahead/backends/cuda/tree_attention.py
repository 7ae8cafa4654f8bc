"""Tree attention by Triton kernels over a cache's whole memory: no mask, no copies, any length of context."""

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
    splits: int | None = None,
) -> Tensor:
    """Return what each node attends to: what `PackedTrees.mask` shows it.

    Args:
        query: [B, heads, n, width].
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
        splits: Into how many parts the context is split, a power of two; None for as many as fill the device.

    Returns:
        [B, n, heads, value width].
    """
    if splits is None:
        group = query.shape[1] // keys.shape[1]
        processors = _processors(query.device)
        splits = splits_for(len(query), keys.shape[1], query.shape[2] * group, processors)
    result: Tensor = torch.ops.lookahead.tree_attention(
        query,
        keys,
        values,
        packed,
        sinks,
        row_table,
        block_table,
        scaling,
        softcap or 0.0,
        window or 0,
        chunk or 0,
        splits,
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
    scaling: float,
    softcap: float,
    window: int,
    chunk: int,
    splits: int,
) -> Tensor:
    """Launch the two kernels; see `tree_attention`."""
    import triton  # noqa: PLC0415  # only where there is a device for it

    from lookahead.backends.cuda import tree_kernel  # noqa: PLC0415

    (rows, heads, nodes, key_width), key_heads, value_width = query.shape, keys.shape[1], values.shape[3]
    assert packed.shape == (rows, columns_for(nodes)), "packed for other trees"  # noqa: S101
    assert keys.stride(3) == values.stride(3) == query.stride(3) == packed.stride(1) == 1  # noqa: S101
    group = heads // key_heads
    tile = min(_MAX_QUERIES, max(_MIN_QUERIES, triton.next_power_of_2(nodes * group)))
    tiles = -(-nodes * group // tile)
    key_lanes, value_lanes = (max(16, triton.next_power_of_2(width)) for width in (key_width, value_width))
    parts = (rows * key_heads, splits, tiles * tile)
    sums = torch.empty(*parts, value_lanes, dtype=torch.float32, device=query.device)
    tops, weights = (torch.empty(parts, dtype=torch.float32, device=query.device) for _ in range(2))
    result = torch.empty(rows, nodes, heads, value_width, dtype=query.dtype, device=query.device)
    is_wide = max(key_lanes, value_lanes) > 128 or query.dtype == torch.float32  # noqa: PLR2004
    tree_kernel.attend_to_part[(splits, rows * key_heads, tiles)](
        *(query, keys, values, packed, row_table, block_table, sums, tops, weights),
        *(scaling, softcap, window, chunk),
        *(*query.stride()[:3], *keys.stride()[:3], *values.stride()[:3]),
        packed.stride(0),
        0 if block_table is None else block_table.stride(0),
        key_heads,
        NODES=nodes,
        GROUP=group,
        KEY_WIDTH=key_width,
        VALUE_WIDTH=value_width,
        KEY_LANES=key_lanes,
        VALUE_LANES=value_lanes,
        QUERIES=tile,
        ALL_QUERIES=tiles * tile,
        BLOCK=32 if is_wide else 64,
        BLOCK_TOKENS=keys.shape[2],
        SPLITS=splits,
        HAS_SOFTCAP=softcap > 0,
        HAS_WINDOW=window > 0,
        HAS_CHUNK=chunk > 0,
        HAS_ROW_TABLE=row_table is not None,
        HAS_BLOCK_TABLE=block_table is not None,
        num_stages=2,
    )
    tree_kernel.join_parts[(nodes * group, rows * key_heads)](
        *(sums, tops, weights, sinks, result),
        *result.stride()[:3],
        key_heads,
        NODES=nodes,
        GROUP=group,
        VALUE_WIDTH=value_width,
        VALUE_LANES=value_lanes,
        ALL_QUERIES=tiles * tile,
        SPLITS=splits,
        HAS_SINKS=sinks is not None,
    )
    return result


@_tree_attention.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, *_others: object) -> Tensor:
    rows, heads, nodes, _ = query.shape
    return query.new_empty(rows, nodes, heads, values.shape[3])


@lru_cache(maxsize=16)
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

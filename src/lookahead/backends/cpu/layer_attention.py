"""Only the CPU decoder's attention, one layer per call, for models that run their own code otherwise.

It serves bfloat16 and float32 on the CPU, with head widths that are multiples of 32.
"""

import numpy as np
import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.amx import may_use_tiles, tile_configuration
from lookahead.backends.cpu.kernels.attention.blocks import PART
from lookahead.backends.cpu.kernels.attention.workspace import attention_integers, attention_scratch
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.plan import (
    EPSILON,
    FIELDS,
    LAYER_FIELDS,
    MEETING_SIZE,
    PARTS,
    SCALE,
    Field,
    LayerField,
)
from lookahead.backends.cpu.step import attention_address
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import ThreadTeam, torch_thread_team

_DTYPES = (torch.bfloat16, torch.float32)


def team_for(query: Tensor, keys: Tensor, values: Tensor) -> ThreadTeam | None:
    """Return the threads for `attend_in_layer`; None if it cannot serve these tensors.

    Args:
        query: [B, heads, n, width].
        keys: [B, key heads, slots, width].
        values: [B, key heads, slots, value width].
    """
    if torch.compiler.is_compiling():  # a tracer cannot follow addresses
        return None
    width = query.shape[3]
    fits = (
        query.device.type == "cpu"
        and query.dtype in _DTYPES
        and keys.dtype == values.dtype == query.dtype
        and keys.shape == values.shape
        and keys.stride() == values.stride()
        and keys.stride()[2:] == (width, 1)
        and width % PART == 0
    )
    return torch_thread_team() if fits and multiplies_and_adds() else None


def attend_in_layer(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    trees: TreeTables,
    *,
    scaling: float,
    window_index: int = 0,
    team: ThreadTeam,
) -> Tensor:
    """Return what each node attends to: its own branch, in the order of the text.

    Args:
        query: [B, heads, n, width], rotated.
        keys: [cache rows, key heads, slots, width], those of the nodes included; heads is a multiple of key
            heads.
        values: Likewise.
        trees: The B rows; `trees.cache_rows` says which rows of the cache they are.
        scaling: Factor on the scores.
        window_index: The layer's window, among those that `trees` was made for.
        team: The threads, from `team_for`.

    Returns:
        [B, n, heads, width].
    """
    heads, width, key_heads = query.shape[1], query.shape[3], keys.shape[1]
    queries = query.transpose(1, 2).contiguous()
    attended = torch.empty_like(queries)
    workspace = _workspace(queries, key_heads, trees.spans, threads := torch.get_num_threads())
    tiles = tile_configuration() if query.dtype == torch.bfloat16 and may_use_tiles() else None
    layer, scalars = np.zeros(LAYER_FIELDS, np.int64), np.zeros(max(EPSILON, SCALE) + 1, np.float32)
    layer[LayerField.WINDOW_INDEX], scalars[SCALE] = window_index, scaling
    table, taken, meeting = (np.zeros(size, np.int64) for size in (FIELDS, PARTS, MEETING_SIZE))
    fields = {
        **trees.fields,
        **{field: tensor.data_ptr() for field, tensor in workspace.items()},
        Field.HEADS: heads,
        Field.KEY_HEADS: key_heads,
        Field.WIDTH: width,
        Field.LAYERS_AT: layer.ctypes.data,
        Field.SCALARS_AT: scalars.ctypes.data,
        Field.YIELD_AT: team.yield_core,
        Field.MEETING_AT: meeting.ctypes.data,
        Field.THREAD_INDEX_AT: team.thread_index,
        Field.THREAD_COUNT_AT: team.thread_count,
        Field.KEYS_AT: keys.data_ptr(),
        Field.VALUES_AT: values.data_ptr(),
        Field.ROW_STRIDE: keys.stride(0),
        Field.HEAD_STRIDE: keys.stride(1),
        Field.QUERIES_AT: queries.data_ptr(),
        Field.INPUTS_AT: attended.data_ptr(),
        Field.SCRATCH_STRIDE: attention_scratch(heads, key_heads, width),
        Field.TAKEN_AT: taken.ctypes.data,
        Field.TILES_AT: 0 if tiles is None else tiles.ctypes.data,
        Field.INTEGERS_STRIDE: attention_integers(heads, key_heads),
    }
    table[list(fields)] = list(fields.values())
    team.run(attention_address(is_bfloat16=query.dtype == torch.bfloat16), table.ctypes.data, threads)
    return attended


def _workspace(queries: Tensor, key_heads: int, spans: int, threads: int) -> dict[Field, Tensor]:
    """Return the working memory for queries [B, n, heads, width], by the field of its address."""
    batch, nodes, heads, width = queries.shape
    return {
        Field.TOTALS_AT: torch.empty(
            batch * nodes * heads * spans * width, dtype=torch.float32, device="cpu"
        ),
        Field.STATES_AT: torch.empty(batch * nodes * heads * spans * 2, dtype=torch.float32, device="cpu"),
        Field.SCRATCH_AT: torch.empty(
            threads * attention_scratch(heads, key_heads, width), dtype=torch.float32, device="cpu"
        ),
        Field.INTEGERS_AT: torch.empty(
            threads * attention_integers(heads, key_heads), dtype=torch.int64, device="cpu"
        ),
    }

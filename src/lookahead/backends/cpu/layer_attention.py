"""The fused step's attention by itself, for models whose other code is left as it is.

It needs a CPU, bfloat16 or float32, and heads whose width is a multiple of 32; what comes of a node depends
on its text alone (`attention.py`).
"""

import numpy as np
import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.attention import attention_integers, attention_scratch
from lookahead.backends.cpu.kernels.blocks import PART
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.plan import EPSILON, FIELDS, LAYER_FIELDS, SCALE, Field, LayerField
from lookahead.backends.cpu.step import attention_address
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import Team, torch_team

_DTYPES = (torch.bfloat16, torch.float32)


def team_for(query: Tensor, keys: Tensor, values: Tensor) -> Team | None:
    """Return the threads that attend; None where these tensors are not of the kind that is known here.

    Args:
        query: [B, heads, n, width].
        keys: [B, key heads, slots, width].
        values: [B, key heads, slots, value width].
    """
    if torch.compiler.is_compiling():  # a compiler would follow the addresses' arithmetic, not the addresses
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
    return torch_team() if fits and multiplies_and_adds() else None


def attend_in_layer(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    trees: TreeTables,
    *,
    scaling: float,
    window_index: int = 0,
    team: Team,
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
    batch, heads, nodes, width = query.shape
    key_heads, spans = keys.shape[1], trees.spans
    queries = query.transpose(1, 2).contiguous()
    attended = torch.empty_like(queries)
    threads = torch.get_num_threads()
    scratch, integers = attention_scratch(width), attention_integers(heads, key_heads)
    room = {
        Field.TOTALS_AT: torch.empty(batch * nodes * heads * spans * width),
        Field.STATES_AT: torch.empty(batch * nodes * heads * spans * 2),
        Field.SCRATCH_AT: torch.empty(threads * scratch),
        Field.INTEGERS_AT: torch.empty(threads * integers, dtype=torch.int64),
    }
    layer = np.zeros(LAYER_FIELDS, np.int64)
    layer[LayerField.WINDOW_INDEX] = window_index
    scalars = np.zeros(max(EPSILON, SCALE) + 1, np.float32)
    scalars[SCALE] = scaling
    table = np.zeros(FIELDS, np.int64)
    fields = {
        **trees.fields,
        **{field: tensor.data_ptr() for field, tensor in room.items()},
        Field.HEADS: heads,
        Field.KEY_HEADS: key_heads,
        Field.WIDTH: width,
        Field.LAYERS_AT: layer.ctypes.data,
        Field.SCALARS_AT: scalars.ctypes.data,
        Field.BARRIER_AT: team.barrier,
        Field.MEMBER_AT: team.member,
        Field.MEMBERS_AT: team.members,
        Field.KEYS_AT: keys.data_ptr(),
        Field.VALUES_AT: values.data_ptr(),
        Field.ROW_STRIDE: keys.stride(0),
        Field.HEAD_STRIDE: keys.stride(1),
        Field.QUERIES_AT: queries.data_ptr(),
        Field.INPUTS_AT: attended.data_ptr(),
        Field.SCRATCH_STRIDE: scratch,
        Field.INTEGERS_STRIDE: integers,
    }
    for field, value in fields.items():
        table[field] = value
    team.work(attention_address(halves=query.dtype == torch.bfloat16), table.ctypes.data)
    return attended

"""The CPU decoder: a model's weights, read in place, the workspace of a step, and the call of the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookahead.backends.cpu.kernels.amx import may_use_tiles, tile_configuration
from lookahead.backends.cpu.kernels.attention.workspace import attention_integers
from lookahead.backends.cpu.kernels.matrix import UNIT
from lookahead.backends.cpu.kernels.products import rows_with_room, space_size
from lookahead.backends.cpu.packed import PackedMatrix, Weights, table_address
from lookahead.backends.cpu.plan import FIELDS, LAYER_FIELDS, MEETING_SIZE, PARTS, Field, LayerField
from lookahead.backends.cpu.step import scratch_size, step_address
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import ThreadTeam
from lookahead.drafting.arrays import Int64Array

_MULTIPLE = 32
"""Divides hidden size, inner size and head width."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer; matrices are [outputs, inputs], of numbers or packed.

    Attributes:
        norm: [hidden], before attention.
        projections: Of queries, keys and values.
        out: Projection after attention.
        inner_norm: [hidden], before the gated MLP.
        gate: Of the gated MLP.
        up: Of the gated MLP.
        down: Of the gated MLP.
        biases: Of the three projections, each or None.
        head_norms: [width], of queries and keys, each or None.
        window: Places that a token sees, itself included, or None for all.
    """

    norm: Tensor
    projections: Sequence[Weights]
    out: Weights
    inner_norm: Tensor
    gate: Weights
    up: Weights
    down: Weights
    biases: Sequence[Tensor | None] = (None, None, None)
    head_norms: Sequence[Tensor | None] = (None, None)
    window: int | None = None

    def by_field(self) -> dict[LayerField, Weights | None]:
        """Return the tensors by their field in the table of layers."""
        first = zip(LayerField, (self.norm, *self.projections, self.out, self.inner_norm), strict=False)
        return {
            **dict(first),
            LayerField.GATE: self.gate,
            LayerField.UP: self.up,
            LayerField.DOWN: self.down,
            LayerField.QUERY_BIAS: self.biases[0],
            LayerField.KEY_BIAS: self.biases[1],
            LayerField.VALUE_BIAS: self.biases[2],
            LayerField.QUERY_NORM: self.head_norms[0],
            LayerField.KEY_NORM: self.head_norms[1],
        }

    def packings(self) -> dict[LayerField, int]:
        """Return the addresses of the tables that say how the matrices are packed, by field."""
        matrices = (*self.projections, self.out, self.gate, self.up, self.down)
        return {
            LayerField(LayerField.QUERY_PACKING + index): table_address(matrix)
            for index, matrix in enumerate(matrices)
        }


@dataclass(frozen=True)
class DecoderWeights:
    """The weights and sizes of a whole decoder.

    Attributes:
        layers: In order.
        last_norm: [hidden].
        output: [vocabulary, hidden].
        heads: Query heads.
        key_heads: Key and value heads.
        width: Of a head.
        epsilon: Of all norms.
        scale: Factor on the attention scores.
    """

    layers: Sequence[LayerWeights]
    last_norm: Tensor
    output: Weights
    heads: int
    key_heads: int
    width: int
    epsilon: float
    scale: float

    def tensors(self) -> list[Weights]:
        """Return all weights."""
        found = [tensor for layer in self.layers for tensor in layer.by_field().values()]
        return [tensor for tensor in (*found, self.last_norm, self.output) if tensor is not None]

    def unsupported_reason(self) -> str:
        """Return, in words, why the CPU decoder cannot serve these weights; empty if it can."""
        tensors = self.tensors()
        dtypes = {tensor.dtype for tensor in tensors}
        sizes = (self.last_norm.numel(), self.layers[0].down.shape[1], self.width)
        if dtypes not in ({torch.bfloat16}, {torch.float32}):
            return f"its weights are {', '.join(sorted(map(str, dtypes)))}, not all bfloat16 or all float32"
        if any(tensor.device.type != "cpu" or not tensor.is_contiguous() for tensor in tensors):
            return "its weights are not all contiguous in the CPU's memory"
        if any(size % _MULTIPLE for size in sizes):
            return f"hidden size, inner size and head width are {sizes}, not all multiples of {_MULTIPLE}"
        if self.output.shape[0] < UNIT:
            return f"its vocabulary has {self.output.shape[0]} tokens, fewer than {UNIT}"
        if not all(self._is_like_others(layer) for layer in self.layers):
            return "its layers are not all of one shape"
        packed = (tensor.unsupported_reason() for tensor in tensors if isinstance(tensor, PackedMatrix))
        return next(filter(None, packed), "")

    def _is_like_others(self, layer: LayerWeights) -> bool:
        """Return whether a layer's tensors have the shapes that a step expects of all layers."""
        (hidden,), inner = self.last_norm.shape, self.layers[0].down.shape[1]
        own, shared = self.heads * self.width, self.key_heads * self.width
        projected = {"QUERY": own, "KEY": shared, "VALUE": shared}
        expected = {
            **{LayerField[name]: (size, hidden) for name, size in projected.items()},
            **{LayerField[f"{name}_BIAS"]: (size,) for name, size in projected.items()},
            **dict.fromkeys((LayerField.NORM, LayerField.INNER_NORM), (hidden,)),
            **dict.fromkeys((LayerField.QUERY_NORM, LayerField.KEY_NORM), (self.width,)),
            **dict.fromkeys((LayerField.GATE, LayerField.UP), (inner, hidden)),
            LayerField.OUT: (hidden, own),
            LayerField.DOWN: (hidden, inner),
        }
        found = layer.by_field().items()
        return all(tensor is None or tensor.shape == expected[field] for field, tensor in found)


class CpuDecoder:
    """Runs forward passes of a decoder over draft trees, each in one call.

    Args:
        weights: Weights without an `unsupported_reason`; they are read in place.
        team: The threads.
    """

    def __init__(self, weights: DecoderWeights, team: ThreadTeam) -> None:
        self._weights = weights
        self._team = team
        self._dtype = weights.output.dtype
        self._step = step_address(is_bfloat16=self._dtype == torch.bfloat16)
        own, inner = weights.heads * weights.width, weights.layers[0].down.shape[1]
        self._widest = max(weights.last_norm.numel(), own, inner)
        self._windows = tuple(dict.fromkeys(layer.window for layer in weights.layers))
        self._layers = _layer_table(weights, self._windows)
        self._scalars = np.array([weights.epsilon, weights.scale], np.float32)
        self._table = np.zeros(FIELDS, np.int64)
        uses_tiles = self._dtype == torch.bfloat16 and may_use_tiles()
        self._tiles = tile_configuration() if uses_tiles else None
        self._taken = np.zeros((len(weights.layers) + 1) * PARTS, np.int64)
        self._meeting = np.zeros(MEETING_SIZE, np.int64)
        self._workspace: dict[Field, Tensor] = {}
        self._set_model_fields()

    def fits(self, cache: tuple[Tensor, Tensor]) -> bool:
        """Return whether a cache, as `forward` takes it, is of the weights' dtype and layers."""
        return all(part.dtype == self._dtype and len(part) == len(self._weights.layers) for part in cache)

    def forward(
        self,
        embedded: Tensor,
        rope: tuple[Tensor, Tensor],
        trees: TreeTables,
        cache: tuple[Tensor, Tensor],
        logits_of: Sequence[int] | None = None,
    ) -> Tensor:
        """Verify draft trees, or read prompts, and write their keys and values to the cache.

        Args:
            embedded: Embeddings of the N nodes' tokens, of all rows one after the other, [N, hidden].
            rope: Cosines and sines of their positions, [N, width] each.
            trees: The rows' trees, for the windows of this decoder. The keys and values of a row's node i,
                also after a tree that is smaller than its part of the N nodes, are written to slot length +
                i.
            cache: Keys and values, [layers, cache rows, key heads, slots, width] each, of one layout, the
                last two dimensions contiguous.
            logits_of: For each row, for how many of its last nodes logits are wanted; None for all.

        Returns:
            Logits of these nodes, in their order, [N or fewer, vocabulary].
        """
        tokens = len(embedded)
        stream = embedded.to(torch.float32, copy=True)
        cosines, sines = (part.to(self._dtype).contiguous() for part in rope)
        nodes = _logit_nodes(trees, logits_of)
        logits = torch.empty((len(nodes), self._weights.output.shape[0]), dtype=self._dtype, device="cpu")
        threads = torch.get_num_threads()
        self._grow_workspace(tokens, trees, threads)
        keys, values = cache
        self._taken[:] = 0
        self._set(
            {
                **trees.fields,
                Field.KEYS_AT: keys.data_ptr(),
                Field.VALUES_AT: values.data_ptr(),
                Field.LAYER_STRIDE: keys.stride(0),
                Field.ROW_STRIDE: keys.stride(1),
                Field.HEAD_STRIDE: keys.stride(2),
                Field.STREAM_AT: stream.data_ptr(),
                Field.COSINES_AT: cosines.data_ptr(),
                Field.SINES_AT: sines.data_ptr(),
                Field.LOGITS: len(nodes),
                Field.LOGIT_NODES_AT: nodes.ctypes.data,
                Field.LOGITS_AT: logits.data_ptr(),
                Field.TAKEN_AT: self._taken.ctypes.data,
            }
        )
        self._team.run(self._step, self._table.ctypes.data, threads)
        return logits

    @property
    def states(self) -> Tensor:
        """Keys or values of no tokens, [0, key heads, 0, width], of the weights' dtype."""
        return torch.empty(
            0, self._weights.key_heads, 0, self._weights.width, dtype=self._dtype, device="cpu"
        )

    @property
    def windows(self) -> Sequence[int | None]:
        """The different windows of the layers, for `TreeTables`."""
        return self._windows

    def _set(self, fields: dict[Field, int]) -> None:
        for field, value in fields.items():
            self._table[field] = value

    def _set_model_fields(self) -> None:
        weights, team = self._weights, self._team
        self._set(
            {
                Field.LAYERS: len(weights.layers),
                Field.HIDDEN: weights.last_norm.numel(),
                Field.INNER: weights.layers[0].down.shape[1],
                Field.HEADS: weights.heads,
                Field.KEY_HEADS: weights.key_heads,
                Field.WIDTH: weights.width,
                Field.VOCABULARY: weights.output.shape[0],
                Field.LAYERS_AT: self._layers.ctypes.data,
                Field.LAST_NORM_AT: weights.last_norm.data_ptr(),
                Field.OUTPUT_AT: weights.output.data_ptr(),
                Field.OUTPUT_PACKING_AT: table_address(weights.output),
                Field.WIDEST: self._widest,
                Field.SCALARS_AT: self._scalars.ctypes.data,
                Field.YIELD_AT: team.yield_core,
                Field.MEETING_AT: self._meeting.ctypes.data,
                Field.THREAD_INDEX_AT: team.thread_index,
                Field.THREAD_COUNT_AT: team.thread_count,
                Field.TILES_AT: 0 if self._tiles is None else self._tiles.ctypes.data,
            }
        )

    def _grow_workspace(self, tokens: int, trees: TreeTables, threads: int) -> None:
        """Make the workspace large enough for a step; it is kept for later steps."""
        weights = self._weights
        own, shared = weights.heads * weights.width, weights.key_heads * weights.width
        inner, hidden = weights.layers[0].down.shape[1], weights.last_norm.numel()
        scratch = scratch_size(tokens, weights.heads, weights.key_heads, weights.width)
        integers = attention_integers(weights.heads, weights.key_heads)
        packed = int(space_size(self._widest))
        rows, summed = int(rows_with_room(tokens)), trees.summed_nodes * trees.spans
        wanted = {
            Field.INPUTS_AT: (rows * max(hidden, own), self._dtype),
            Field.GATED_AT: (rows * inner, self._dtype),
            Field.QUERIES_AT: (tokens * own, self._dtype),
            Field.NEW_KEYS_AT: (tokens * shared, self._dtype),
            Field.NEW_VALUES_AT: (tokens * shared, self._dtype),
            Field.TOTALS_AT: (summed * own, torch.float32),
            Field.STATES_AT: (summed * weights.heads * 2, torch.float32),
            Field.SCRATCH_AT: (threads * scratch, torch.float32),
            Field.INTEGERS_AT: (threads * integers, torch.int64),
            Field.PACKED_AT: (threads * packed, torch.float32),
        }
        for field, (size, dtype) in wanted.items():
            if field not in self._workspace or self._workspace[field].numel() < size:
                self._workspace[field] = torch.empty(size, dtype=dtype, device="cpu")
        self._set({field: tensor.data_ptr() for field, tensor in self._workspace.items()})
        self._set(
            {
                Field.SCRATCH_STRIDE: scratch,
                Field.INTEGERS_STRIDE: integers,
                Field.PACKED_STRIDE: packed,
            }
        )


def _logit_nodes(trees: TreeTables, logits_of: Sequence[int] | None) -> Int64Array:
    """Return int64 [logits], the nodes whose logits are wanted: the last ones of each row."""
    nodes = np.arange(len(trees.places))
    if logits_of is None:
        return nodes
    firsts = trees.begins[1:] - np.array(logits_of, np.int64)
    return nodes[nodes >= firsts[trees.rows]]


def _layer_table(weights: DecoderWeights, windows: tuple[int | None, ...]) -> np.ndarray:
    table = np.zeros((len(weights.layers), LAYER_FIELDS), np.int64)
    for of_layer, layer in zip(table, weights.layers, strict=True):
        for field, tensor in layer.by_field().items():
            of_layer[field] = 0 if tensor is None else tensor.data_ptr()
        for field, address in layer.packings().items():
            of_layer[field] = address
        of_layer[LayerField.WINDOW_INDEX] = windows.index(layer.window)
    return table

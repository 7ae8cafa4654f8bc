"""The tables that a step of the CPU decoder reads: numbers and addresses, each in its own field."""

from enum import IntEnum


class Field(IntEnum):
    """Fields of a step's table, int64: `_AT` is an address, `_STRIDE` counts elements."""

    # Sizes and weights of the model.
    LAYERS = 0
    HIDDEN = 1
    INNER = 2
    HEADS = 3
    KEY_HEADS = 4
    WIDTH = 5
    VOCABULARY = 6
    LAYERS_AT = 7
    LAST_NORM_AT = 8
    OUTPUT_AT = 9
    SCALARS_AT = 10
    # Functions of the thread team.
    BARRIER_AT = 11
    THREAD_INDEX_AT = 12
    THREAD_COUNT_AT = 13
    # Rows and their draft trees; see `Trees`.
    ROWS = 14
    NODES = 15
    ROWS_AT = 16
    LENGTHS_AT = 17
    PLACES_AT = 18
    FIRSTS_AT = 19
    SLOTS_AT = 20
    TAIL = 21
    SPANS = 22
    # KV cache.
    KEYS_AT = 23
    VALUES_AT = 24
    LAYER_STRIDE = 25
    ROW_STRIDE = 26
    HEAD_STRIDE = 27
    # Inputs: embeddings, float32 [rows · nodes, hidden], which become the residual stream; cosines and sines
    # of the rotary positions, [rows · nodes, width].
    STREAM_AT = 28
    COSINES_AT = 29
    SINES_AT = 30
    # Workspace: inputs of matrix products, [rows · nodes, hidden or heads · width] and [rows · nodes, inner];
    # queries, new keys, new values; attention sums; float32 and int64 scratch of each thread.
    INPUTS_AT = 31
    GATED_AT = 32
    QUERIES_AT = 33
    NEW_KEYS_AT = 34
    NEW_VALUES_AT = 35
    TOTALS_AT = 36
    STATES_AT = 37
    SCRATCH_AT = 38
    SCRATCH_STRIDE = 39
    INTEGERS_AT = 40
    INTEGERS_STRIDE = 41
    # Output: logits, [rows · nodes, vocabulary].
    LOGITS_AT = 42


class LayerField(IntEnum):
    """Fields of a layer in the table of layers: addresses of weights, 0 where the layer has none."""

    NORM = 0
    QUERY = 1
    KEY = 2
    VALUE = 3
    OUT = 4
    INNER_NORM = 5
    GATE = 6
    UP = 7
    DOWN = 8
    QUERY_BIAS = 9
    KEY_BIAS = 10
    VALUE_BIAS = 11
    QUERY_NORM = 12
    KEY_NORM = 13
    WINDOW_INDEX = 14  # of the layer's window, among those that `FIRSTS_AT` was computed for


FIELDS = len(Field)
LAYER_FIELDS = len(LayerField)
EPSILON, SCALE = 0, 1
"""Indices of the float32 scalars."""

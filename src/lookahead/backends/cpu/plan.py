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
    YIELD_AT = 11
    THREAD_INDEX_AT = 12
    THREAD_COUNT_AT = 13
    # Rows and their draft trees; see `Trees`. For each node: its row.
    ROWS = 14
    NODES = 15
    BEGINS_AT = 16
    ROWS_AT = 17
    LENGTHS_AT = 18
    STARTS_AT = 19
    CHAINS_AT = 20
    PLACES_AT = 21
    FIRSTS_AT = 22
    SLOTS_AT = 23
    TAIL = 24
    SPANS = 25
    ROW_OF_NODE_AT = 26
    # KV cache.
    KEYS_AT = 27
    VALUES_AT = 28
    LAYER_STRIDE = 29
    ROW_STRIDE = 30
    HEAD_STRIDE = 31
    # Inputs: embeddings, float32 [nodes, hidden], which become the residual stream; cosines and sines of the
    # rotary positions, [nodes, width].
    STREAM_AT = 32
    COSINES_AT = 33
    SINES_AT = 34
    # Workspace: inputs of matrix products, [nodes, hidden or heads · width] and [nodes, inner]; queries, new
    # keys, new values; attention sums; float32 and int64 scratch of each thread, and its packed weights.
    INPUTS_AT = 35
    GATED_AT = 36
    QUERIES_AT = 37
    NEW_KEYS_AT = 38
    NEW_VALUES_AT = 39
    TOTALS_AT = 40
    STATES_AT = 41
    SCRATCH_AT = 42
    SCRATCH_STRIDE = 43
    INTEGERS_AT = 44
    INTEGERS_STRIDE = 45
    PACKED_AT = 46
    PACKED_STRIDE = 47
    # Output: which nodes' logits are wanted, int64 [logits], and the logits, [logits, vocabulary].
    LOGITS = 48
    LOGIT_NODES_AT = 49
    LOGITS_AT = 50
    # The configuration of tile registers, see `amx.py`; 0 if they are not used.
    TILES_AT = 51
    # How much of each part has been taken by a worker, int64 [layers + 1, parts], 0 at first; see `Part`.
    TAKEN_AT = 52
    # Where the threads meet, int64 [2 lines]: how many have arrived, and how often all did; see `barrier`.
    MEETING_AT = 53
    # How the output matrix is packed, see `PackingField`, or 0; the width of the widest matrix.
    OUTPUT_PACKING_AT = 54
    WIDEST = 55


class Part(IntEnum):
    """Parts of a layer whose work is taken by whichever worker is free, if there are many nodes."""

    QUERIES = 0
    KEYS = 1
    VALUES = 2
    ATTENTION = 3
    OUT = 4
    UNITS = 5
    DOWN = 6
    LOGITS = 7


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
    # How the matrices are packed, see `PackingField`, or 0.
    QUERY_PACKING = 15
    KEY_PACKING = 16
    VALUE_PACKING = 17
    OUT_PACKING = 18
    GATE_PACKING = 19
    UP_PACKING = 20
    DOWN_PACKING = 21


FIELDS = len(Field)
LAYER_FIELDS = len(LayerField)
PARTS = len(Part)
EPSILON, SCALE = 0, 1
"""Indices of the float32 scalars."""
ARRIVED, MEETINGS, MEETING_SIZE = 0, 8, 16
"""Indices of the two numbers of a barrier, each in a cache line of its own, and their int64s in all."""

"""What a fused step is told: numbers and addresses, each at its place in a table of int64."""

from enum import IntEnum


class Field(IntEnum):
    """Places in a step's table; what ends in `_AT` is an address, what ends in `_APART` counts elements."""

    # of the model
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
    # of the team
    BARRIER_AT = 11
    MEMBER_AT = 12
    MEMBERS_AT = 13
    # of the trees, see `Trees`
    ROWS = 14
    NODES = 15
    START = 16
    LENGTHS_AT = 17
    PADDINGS_AT = 18
    DEPTHS_AT = 19
    SLOTS_AT = 20
    TAIL = 21
    SPANS = 22
    # of the cache
    KEYS_AT = 23
    VALUES_AT = 24
    LAYER_APART = 25
    ROW_APART = 26
    HEAD_APART = 27
    # given: the tokens' embeddings as float32 [rows · nodes, hidden], which become the residual stream, and
    # what turns queries and keys, [rows · nodes, width]
    STREAM_AT = 28
    COSINES_AT = 29
    SINES_AT = 30
    # in between: inputs of products [rows · nodes, hidden or heads · width] and [rows · nodes, inner];
    # queries, new keys and new values; sums of attention; each thread's own float32 and int64
    INPUTS_AT = 31
    GATED_AT = 32
    QUERIES_AT = 33
    NEW_KEYS_AT = 34
    NEW_VALUES_AT = 35
    TOTALS_AT = 36
    STATES_AT = 37
    SCRATCH_AT = 38
    SCRATCH_APART = 39
    INTEGERS_AT = 41
    INTEGERS_APART = 42
    # asked for: logits [rows · nodes, vocabulary]
    LOGITS_AT = 40


class LayerField(IntEnum):
    """Places in a layer's part of the layers' table: addresses of weights, 0 where there are none."""

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
    WINDOW = 14  # in tokens; 0 for none


FIELDS = len(Field)
LAYER_FIELDS = len(LayerField)
EPSILON, SCALE = 0, 1
"""Places among the scalars, float32."""

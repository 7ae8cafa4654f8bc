"""A decoder's forward pass over draft trees, as every thread of the team runs it.

A layer is: norm, projections, rotary positions and cache, attention, norm, gated MLP. Each part is divided
among the workers by count; a barrier follows each part that a later one needs as a whole.

    worker 0   norm | q k v | rope, cache | attend | gather | out | norm | gate, up | down | ...
    worker 1   norm | q k v | rope, cache | attend | gather | out | norm | gate, up | down | ...
                    ^ barrier
"""

from functools import cache
from typing import Any

from lookahead.backends.cpu.kernels.amx import HAS_TILES, begin_tiles, end_tiles
from lookahead.backends.cpu.kernels.attention.pieces import Trees, attend, gather
from lookahead.backends.cpu.kernels.attention.workspace import Heads, attention_scratch, sums_of_thread
from lookahead.backends.cpu.kernels.elementwise import (
    apply_rope,
    normalize,
)
from lookahead.backends.cpu.kernels.matrix import CHUNK, Matrix
from lookahead.backends.cpu.kernels.pointers import (
    address_of,
    bfloat16_pointer,
    call_int,
    float_pointer,
    int_pointer,
    load_float,
    load_int,
    offset,
    pointer_like,
)
from lookahead.backends.cpu.kernels.products import rows_with_room, share_of, space_at
from lookahead.backends.cpu.kernels.rows import copy_row
from lookahead.backends.cpu.layer_products import (
    MANY_NODES,
    Worker,
    add_projection,
    barrier,
    matrix_of,
    normalize_for_logits,
    normalize_stream,
    prepare,
    project,
    project_qkv,
    tokens_of,
    write_swiglu,
)
from lookahead.backends.cpu.plan import EPSILON, LAYER_FIELDS, PARTS, SCALE, Field, LayerField, Part
from lookahead.jit import log_if_slow, pointer_kernel, shared_kernel


@pointer_kernel
def _apply_rope_to_head(worker: Worker, head: Any, norm_at: int, token: int, out: Any) -> None:
    """Write a head with its token's rotary position, after the head norm if the layer has one."""
    table = worker.table
    width = load_int(table, Field.WIDTH)
    if norm_at != 0:
        epsilon = load_float(float_pointer(load_int(table, Field.SCALARS_AT)), EPSILON)
        normalize(head, pointer_like(norm_at, head), head, width, epsilon)
    cosine = offset(pointer_like(load_int(table, Field.COSINES_AT), head), token * width)
    sine = offset(pointer_like(load_int(table, Field.SINES_AT), head), token * width)
    apply_rope(head, cosine, sine, out, width)


@pointer_kernel
def _apply_rope_and_fill_cache(worker: Worker, keys: Any, values: Any) -> None:
    """Rotate the queries in place; write the rotated new keys, and the new values, to the cache."""
    table, layer = worker.table, worker.layer
    width = load_int(table, Field.WIDTH)
    heads, key_heads = load_int(table, Field.HEADS), load_int(table, Field.KEY_HEADS)
    queries = pointer_like(load_int(table, Field.QUERIES_AT), keys)
    new_keys = pointer_like(load_int(table, Field.NEW_KEYS_AT), keys)
    new_values = pointer_like(load_int(table, Field.NEW_VALUES_AT), keys)
    cache_rows = int_pointer(load_int(table, Field.ROWS_AT))
    lengths = int_pointer(load_int(table, Field.LENGTHS_AT))
    begins = int_pointer(load_int(table, Field.BEGINS_AT))
    rows = int_pointer(load_int(table, Field.ROW_OF_NODE_AT))
    first, last = share_of(tokens_of(worker) * (heads + key_heads), worker.thread, worker.workers)
    for item in range(first, last):
        token, head = item // (heads + key_heads), item % (heads + key_heads)
        if head < heads:
            place = offset(queries, (token * heads + head) * width)
            _apply_rope_to_head(worker, place, load_int(layer, LayerField.QUERY_NORM), token, place)
        else:
            head -= heads
            at = (token * key_heads + head) * width
            row = load_int(rows, token)
            slot = load_int(lengths, row) + token - load_int(begins, row)
            to = load_int(cache_rows, row) * load_int(table, Field.ROW_STRIDE)
            to += head * load_int(table, Field.HEAD_STRIDE) + slot * width
            _apply_rope_to_head(
                worker, offset(new_keys, at), load_int(layer, LayerField.KEY_NORM), token, offset(keys, to)
            )
            copy_row(offset(new_values, at), width, offset(values, to))


@pointer_kernel
def _trees(worker: Worker) -> Trees:
    """Return the forward pass's trees as the current layer sees them."""
    table = worker.table
    of_window = load_int(worker.layer, LayerField.WINDOW_INDEX) * tokens_of(worker)
    return Trees(
        load_int(table, Field.ROWS),
        int_pointer(load_int(table, Field.BEGINS_AT)),
        int_pointer(load_int(table, Field.ROWS_AT)),
        int_pointer(load_int(table, Field.LENGTHS_AT)),
        int_pointer(load_int(table, Field.STARTS_AT)),
        int_pointer(load_int(table, Field.CHAINS_AT)),
        int_pointer(load_int(table, Field.PLACES_AT)),
        offset(int_pointer(load_int(table, Field.FIRSTS_AT)), of_window),
        int_pointer(load_int(table, Field.SLOTS_AT)),
        load_int(table, Field.TAIL),
        load_int(table, Field.SPANS),
    )


@pointer_kernel
def _attend(worker: Worker, keys: Any, values: Any) -> None:
    """Write what all nodes attend to, to the inputs of the next products."""
    table = worker.table
    trees = _trees(worker)
    heads = Heads(
        pointer_like(load_int(table, Field.QUERIES_AT), keys),
        keys,
        values,
        load_int(table, Field.ROW_STRIDE),
        load_int(table, Field.HEAD_STRIDE),
        load_int(table, Field.HEADS),
        load_int(table, Field.KEY_HEADS),
        load_int(table, Field.WIDTH),
        load_float(float_pointer(load_int(table, Field.SCALARS_AT)), SCALE),
        worker.uses_tiles,
    )
    sums = sums_of_thread(
        float_pointer(load_int(table, Field.TOTALS_AT)),
        float_pointer(load_int(table, Field.STATES_AT)),
        heads,
        worker.scratch,
        worker.integers,
    )
    out = pointer_like(load_int(table, Field.INPUTS_AT), keys)
    takes = tokens_of(worker) > MANY_NODES
    taken = offset(worker.taken, Part.ATTENTION)
    attend(trees, heads, sums, out, taken, takes, worker.thread, worker.workers)
    barrier(worker)
    gather(trees, heads, sums, out, worker.thread, worker.workers)


@pointer_kernel
def _layer(worker: Worker, index: int, like: Any) -> None:
    """Do a worker's share of a decoder layer."""
    table, layer = worker.table, worker.layer
    of_layer = index * load_int(table, Field.LAYER_STRIDE)
    keys = offset(pointer_like(load_int(table, Field.KEYS_AT), like), of_layer)
    values = offset(pointer_like(load_int(table, Field.VALUES_AT), like), of_layer)
    normalize_stream(worker, pointer_like(load_int(layer, LayerField.NORM), like))
    barrier(worker)
    project_qkv(worker, like)
    barrier(worker)
    _apply_rope_and_fill_cache(worker, keys, values)
    barrier(worker)
    _attend(worker, keys, values)
    barrier(worker)
    like_inputs = pointer_like(load_int(table, Field.INPUTS_AT), like)
    hidden, inner = load_int(table, Field.HIDDEN), load_int(table, Field.INNER)
    own = load_int(table, Field.HEADS) * load_int(table, Field.WIDTH)
    outs = matrix_of(worker, LayerField.OUT, LayerField.OUT_PACKING, hidden, own, like)
    add_projection(worker, Part.OUT, outs, like_inputs)
    barrier(worker)
    normalize_stream(worker, pointer_like(load_int(layer, LayerField.INNER_NORM), like))
    barrier(worker)
    gated = pointer_like(load_int(table, Field.GATED_AT), like)
    write_swiglu(worker, gated)
    barrier(worker)
    downs = matrix_of(worker, LayerField.DOWN, LayerField.DOWN_PACKING, hidden, inner, like)
    add_projection(worker, Part.DOWN, downs, gated)
    barrier(worker)


@pointer_kernel
def _in_layer(table: Any, layer: Any, index: int) -> Worker:
    """Return a worker of the team in a layer."""
    taken = int_pointer(load_int(table, Field.TAKEN_AT))
    thread = call_int(load_int(table, Field.THREAD_INDEX_AT))
    workers = call_int(load_int(table, Field.THREAD_COUNT_AT))
    scratch = float_pointer(load_int(table, Field.SCRATCH_AT))
    packed = float_pointer(load_int(table, Field.PACKED_AT))
    return Worker(
        table,
        layer,
        thread,
        workers,
        offset(scratch, thread * load_int(table, Field.SCRATCH_STRIDE)),
        space_at(
            offset(packed, thread * load_int(table, Field.PACKED_STRIDE)), load_int(table, Field.WIDEST)
        ),
        load_int(table, Field.INTEGERS_AT) + 8 * thread * load_int(table, Field.INTEGERS_STRIDE),
        load_int(table, Field.TILES_AT) != 0,
        offset(taken, index * PARTS),
    )


@pointer_kernel
def _begin(table: Any) -> None:
    """Set up a thread's tile registers if they are used."""
    configuration = load_int(table, Field.TILES_AT)
    if HAS_TILES and configuration != 0:
        begin_tiles(configuration)


@pointer_kernel
def _end(table: Any) -> None:
    """Give a thread's tile registers back if they were used."""
    if HAS_TILES and load_int(table, Field.TILES_AT) != 0:
        end_tiles()


@pointer_kernel
def _write_logits(worker: Worker, like: Any) -> None:
    """Write the logits of the normalized inputs."""
    table = worker.table
    output = Matrix(
        pointer_like(load_int(table, Field.OUTPUT_AT), like),
        load_int(table, Field.OUTPUT_PACKING_AT),
        load_int(table, Field.VOCABULARY),
        load_int(table, Field.HIDDEN),
    )
    count, inputs = load_int(table, Field.LOGITS), pointer_like(load_int(table, Field.INPUTS_AT), like)
    prepare(worker, output, inputs, count)
    logits = pointer_like(load_int(table, Field.LOGITS_AT), like)
    project(worker, Part.LOGITS, output, output.at, False, count, logits)


@pointer_kernel
def _step(address: int, like: Any) -> None:
    """Do a worker's share of a step."""
    table = int_pointer(address)
    _begin(table)
    layers = int_pointer(load_int(table, Field.LAYERS_AT))
    for layer in range(load_int(table, Field.LAYERS)):
        _layer(_in_layer(table, offset(layers, layer * LAYER_FIELDS), layer), layer, like)
    worker = _in_layer(table, layers, load_int(table, Field.LAYERS))
    normalize_for_logits(worker, pointer_like(load_int(table, Field.LAST_NORM_AT), like))
    barrier(worker)
    _write_logits(worker, like)
    _end(table)


@pointer_kernel
def _attention(address: int, like: Any) -> None:
    """Do a worker's share of one layer's attention; queries are rotated and new keys are in the cache."""
    table = int_pointer(address)
    _begin(table)
    keys = pointer_like(load_int(table, Field.KEYS_AT), like)
    values = pointer_like(load_int(table, Field.VALUES_AT), like)
    _attend(_in_layer(table, int_pointer(load_int(table, Field.LAYERS_AT)), 0), keys, values)
    _end(table)


@cache
def step_address(*, is_bfloat16: bool) -> int:
    """Return the address of a C function that does a worker's share of a step; its data is the table.

    The first call compiles it, in about ten seconds, once per installation.

    Args:
        is_bfloat16: For bfloat16 weights, else for float32.
    """
    with log_if_slow():
        return int(_step_in_bfloat16().address if is_bfloat16 else _step_in_float32().address)


@cache
def attention_address(*, is_bfloat16: bool) -> int:
    """Return the address of a C function that does a worker's share of one layer's attention.

    The first call compiles it, in some seconds, once per installation.

    Args:
        is_bfloat16: For a bfloat16 cache, else for float32.
    """
    with log_if_slow():
        return int(_attention_in_bfloat16().address if is_bfloat16 else _attention_in_float32().address)


def _step_in_bfloat16() -> Any:
    @shared_kernel
    def step_in_bfloat16(address: Any) -> None:
        _step(address_of(address), bfloat16_pointer(0))

    return step_in_bfloat16


def _step_in_float32() -> Any:
    @shared_kernel
    def step_in_float32(address: Any) -> None:
        _step(address_of(address), float_pointer(0))

    return step_in_float32


def _attention_in_bfloat16() -> Any:
    @shared_kernel
    def attention_in_bfloat16(address: Any) -> None:
        _attention(address_of(address), bfloat16_pointer(0))

    return attention_in_bfloat16


def _attention_in_float32() -> Any:
    @shared_kernel
    def attention_in_float32(address: Any) -> None:
        _attention(address_of(address), float_pointer(0))

    return attention_in_float32


def scratch_size(tokens: int, heads: int, key_heads: int, width: int) -> int:
    """Return how many float32 of scratch each thread needs."""
    return max(2 * int(rows_with_room(tokens)) * CHUNK, attention_scratch(heads, key_heads, width))

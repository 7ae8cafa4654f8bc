"""The norms and matrix products of a layer, as one worker of the team does them."""

from typing import Any, NamedTuple

from lookahead.backends.cpu.kernels.elementwise import add_rounded, normalize, store_with_bias, swiglu
from lookahead.backends.cpu.kernels.gguf.tiled_products import pack_inputs
from lookahead.backends.cpu.kernels.matrix import CHUNK, UNIT, Matrix, Space
from lookahead.backends.cpu.kernels.pointers import (
    call_int,
    float_pointer,
    int_pointer,
    load_float,
    load_int,
    load_shared,
    offset,
    pause,
    pointer_like,
    store_shared,
    take_next,
)
from lookahead.backends.cpu.kernels.products import dot_chunk, rows_with_room, share_of, units_of
from lookahead.backends.cpu.plan import ARRIVED, EPSILON, MEETINGS, Field, LayerField, Part
from lookahead.jit import pointer_kernel

_ROUNDS_BEFORE_YIELD = 2000
"""How often a waiting worker looks before it offers its core: some 50 microseconds."""

_UNITS_OF_CHUNK = CHUNK // UNIT
UNITS_AT_ONCE = 2
"""Units that a worker takes at once."""
MANY_NODES = 64
"""With more nodes than these, a part's work is taken by whichever worker is free."""


class Worker(NamedTuple):
    """One thread of the team, in one layer.

    Attributes:
        table: Pointer to the step's table, see `Field`.
        layer: Pointer to the layer's part of the table of layers, see `LayerField`.
        thread: Index of the thread.
        workers: Number of threads.
        scratch: Pointer to the thread's float32 [scratch_size(...)].
        space: The thread's memory for products.
        integers: Address of the thread's int64 [attention_integers(...)].
        uses_tiles: Whether bfloat16 is multiplied in tile registers.
        taken: Pointer to the layer's int64 [parts], how much of each part has been taken.
    """

    table: Any
    layer: Any
    thread: int
    workers: int
    scratch: Any
    space: Space
    integers: int
    uses_tiles: bool
    taken: Any


@pointer_kernel
def barrier(worker: Worker) -> None:
    """Wait until all workers have reached this barrier.

    A worker that waits does not sleep: a step has hundreds of barriers, microseconds apart. OpenMP's own
    barrier sleeps as soon as the process has more threads than cores, as with a second team.
    """
    if worker.workers == 1:
        return
    meeting = int_pointer(load_int(worker.table, Field.MEETING_AT))
    before = load_shared(meeting, MEETINGS)
    if take_next(meeting, ARRIVED) == worker.workers - 1:
        store_shared(meeting, ARRIVED, 0)
        store_shared(meeting, MEETINGS, before + 1)
        return
    rounds = 0
    while load_shared(meeting, MEETINGS) == before:
        rounds += 1
        pause()
        if rounds > _ROUNDS_BEFORE_YIELD:  # another thread may need this core to arrive
            call_int(load_int(worker.table, Field.YIELD_AT))


@pointer_kernel
def tokens_of(worker: Worker) -> int:
    """Return the tokens of the forward pass, padding included."""
    tokens: int = load_int(worker.table, Field.NODES)
    return tokens


@pointer_kernel
def normalize_stream(worker: Worker, weight: Any) -> None:
    """Write the normalized residual stream to the inputs of the next products."""
    table = worker.table
    hidden = load_int(table, Field.HIDDEN)
    stream = float_pointer(load_int(table, Field.STREAM_AT))
    inputs = pointer_like(load_int(table, Field.INPUTS_AT), weight)
    epsilon = load_float(float_pointer(load_int(table, Field.SCALARS_AT)), EPSILON)
    first, last = share_of(tokens_of(worker), worker.thread, worker.workers)
    for token in range(first, last):
        normalize(offset(stream, token * hidden), weight, offset(inputs, token * hidden), hidden, epsilon)


@pointer_kernel
def normalize_for_logits(worker: Worker, weight: Any) -> None:
    """Write the normalized residual stream of the nodes whose logits are wanted to the next inputs."""
    table = worker.table
    hidden = load_int(table, Field.HIDDEN)
    stream = float_pointer(load_int(table, Field.STREAM_AT))
    nodes = int_pointer(load_int(table, Field.LOGIT_NODES_AT))
    inputs = pointer_like(load_int(table, Field.INPUTS_AT), weight)
    epsilon = load_float(float_pointer(load_int(table, Field.SCALARS_AT)), EPSILON)
    first, last = share_of(load_int(table, Field.LOGITS), worker.thread, worker.workers)
    for item in range(first, last):
        source = offset(stream, load_int(nodes, item) * hidden)
        normalize(source, weight, offset(inputs, item * hidden), hidden, epsilon)


@pointer_kernel
def matrix_of(worker: Worker, field: int, packing: int, outputs: int, width: int, like: Any) -> Matrix:
    """Return a matrix of the layer, by its field and that of its packing."""
    at = pointer_like(load_int(worker.layer, field), like)
    return Matrix(at, load_int(worker.layer, packing), outputs, width)


@pointer_kernel
def _dot_chunk(
    worker: Worker, matrix: Matrix, unit: int, end: int, inputs: Any, rows: int, out: Any
) -> tuple[int, int]:
    """Compute a chunk of units with the worker's memory; see `dot_chunk`."""
    return dot_chunk(matrix, unit, end, inputs, rows, out, worker.space, worker.uses_tiles)


@pointer_kernel
def _next_units(worker: Worker, part: int, outputs: int, turn: int) -> tuple[int, int]:
    """Return the units of a matrix that a worker multiplies next: the first, and the one after the last.

    With a few nodes they are a worker's share in order, so that it reads memory in order. With many, they are
    the next that no worker has taken: a worker whose core is slower for a while takes fewer.

    Args:
        worker: Which asks.
        part: Of the layer, see `Part`.
        outputs: Of the matrix.
        turn: How often the worker has asked for this part.
    """
    units = units_of(outputs)
    if tokens_of(worker) > MANY_NODES:
        first = take_next(worker.taken, part) * UNITS_AT_ONCE
        return first, min(first + UNITS_AT_ONCE, units)
    first, last = share_of(units, worker.thread, worker.workers)
    first += turn * _UNITS_OF_CHUNK
    return first, min(first + _UNITS_OF_CHUNK, last)


@pointer_kernel
def project(
    worker: Worker, part: int, matrix: Matrix, bias: Any, has_bias: bool, tokens: int, out: Any
) -> None:
    """Write out [tokens, outputs], the products of all inputs with a matrix, plus the bias, if any."""
    inputs, outputs = pointer_like(load_int(worker.table, Field.INPUTS_AT), matrix.at), matrix.outputs
    turn, (unit, end) = 0, _next_units(worker, part, outputs, 0)
    while unit < end:
        start, count = _dot_chunk(worker, matrix, unit, end, inputs, tokens, worker.scratch)
        for token in range(tokens):
            place = offset(out, token * outputs + start)
            store_with_bias(
                offset(worker.scratch, token * CHUNK), offset(bias, start), has_bias, place, count
            )
        turn += 1
        unit, end = _next_units(worker, part, outputs, turn)


@pointer_kernel
def prepare(worker: Worker, matrix: Matrix, inputs: Any, rows: int) -> None:
    """Pack inputs in the worker's memory if they are multiplied so with a matrix."""
    pack_inputs(matrix, inputs, rows, worker.space, worker.uses_tiles)


@pointer_kernel
def add_projection(worker: Worker, part: int, matrix: Matrix, inputs: Any) -> None:
    """Add the products of inputs [tokens, width] with a matrix to the residual stream."""
    tokens, hidden = tokens_of(worker), matrix.outputs
    stream = float_pointer(load_int(worker.table, Field.STREAM_AT))
    prepare(worker, matrix, inputs, tokens)
    turn, (unit, end) = 0, _next_units(worker, part, hidden, 0)
    while unit < end:
        start, count = _dot_chunk(worker, matrix, unit, end, inputs, tokens, worker.scratch)
        for token in range(tokens):
            products = offset(worker.scratch, token * CHUNK)
            add_rounded(offset(stream, token * hidden + start), products, count, matrix.at)
        turn += 1
        unit, end = _next_units(worker, part, hidden, turn)


@pointer_kernel
def write_swiglu(worker: Worker, out: Any) -> None:
    """Write out [tokens, inner], silu(gate) · up."""
    table, tokens = worker.table, tokens_of(worker)
    hidden, inner = load_int(table, Field.HIDDEN), load_int(table, Field.INNER)
    gates = matrix_of(worker, LayerField.GATE, LayerField.GATE_PACKING, inner, hidden, out)
    ups = matrix_of(worker, LayerField.UP, LayerField.UP_PACKING, inner, hidden, out)
    inputs = pointer_like(load_int(table, Field.INPUTS_AT), out)
    prepare(worker, ups if gates.packing == 0 else gates, inputs, tokens)
    second = offset(worker.scratch, rows_with_room(tokens) * CHUNK)
    turn, (unit, end) = 0, _next_units(worker, Part.UNITS, inner, 0)
    while unit < end:
        start, count = _dot_chunk(worker, gates, unit, end, inputs, tokens, worker.scratch)
        _dot_chunk(worker, ups, unit, end, inputs, tokens, second)
        for token in range(tokens):
            at = token * CHUNK
            swiglu(offset(worker.scratch, at), offset(second, at), offset(out, token * inner + start), count)
        turn += 1
        unit, end = _next_units(worker, Part.UNITS, inner, turn)


@pointer_kernel
def project_qkv(worker: Worker, like: Any) -> None:
    """Write queries, new keys and new values, without rotary positions."""
    table, layer, tokens = worker.table, worker.layer, tokens_of(worker)
    hidden, width = load_int(table, Field.HIDDEN), load_int(table, Field.WIDTH)
    own, shared = load_int(table, Field.HEADS) * width, load_int(table, Field.KEY_HEADS) * width
    inputs, is_prepared = pointer_like(load_int(table, Field.INPUTS_AT), like), False
    for part in range(3):
        outputs = own if part == 0 else shared
        bias = load_int(layer, LayerField.QUERY_BIAS + part)
        out = pointer_like(load_int(table, Field.QUERIES_AT + part), like)
        fields = LayerField.QUERY + part, LayerField.QUERY_PACKING + part
        matrix = matrix_of(worker, fields[0], fields[1], outputs, hidden, like)
        if matrix.packing != 0 and not is_prepared:
            prepare(worker, matrix, inputs, tokens)
            is_prepared = True
        project(worker, Part.QUERIES + part, matrix, pointer_like(bias, like), bias != 0, tokens, out)

"""The kernels at Python's door, which take a log's arrays one by one, and compiling them ahead of time."""

from functools import cache

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Int64Array
from lookahead.drafting.growth.modes import side_by_side
from lookahead.drafting.log.calibration import initial_weights
from lookahead.drafting.log.growth import grow_from_log, learn_from_draft
from lookahead.drafting.log.matches import LONGEST_MATCH, NOBODY, initial_log_trust
from lookahead.drafting.log.prediction import Beliefs
from lookahead.drafting.log.ring import GAP, SMALLEST_RING, RingMemory, append_all, ring_in
from lookahead.drafting.log.successors import SMALLEST_TABLE, copy_since, new_table, without_owner, write_all
from lookahead.drafting.log.workspace import SketchMemory, sketch_in
from lookahead.drafting.store import checked_tokens
from lookahead.drafting.tree import DraftTree
from lookahead.jit import lean_kernel


@lean_kernel
def draw(
    own_cells: Int32Array,
    own_heads: Int32Array,
    own_end: Int64Array,
    shared_cells: Int32Array,
    shared_heads: Int32Array,
    shared_end: Int64Array,
    keys: Int64Array,
    successors: Int32Array,
    readable: Int32Array,
    tail: Int32Array,
    trust: Float64Array,
    weights: Float64Array,
    integers: Int32Array,
    floats: Float64Array,
    room: int,
    max_nodes: int,
    deepest_draft: int,
    widest: int,
) -> int:
    """Draw a draft into the sketch that lies in `integers` and `floats`, as `grow_from_log` does."""
    return grow_from_log(
        ring_in(own_cells, own_heads, own_end),
        ring_in(shared_cells, shared_heads, shared_end),
        keys,
        successors,
        readable,
        tail,
        Beliefs(trust, weights),
        sketch_in(integers, floats, room),
        max_nodes,
        deepest_draft,
        widest,
    )


@lean_kernel
def stream_in(
    own_cells: Int32Array,
    own_heads: Int32Array,
    own_end: Int64Array,
    has_room: bool,
    tail: Int32Array,
    tokens: Int32Array,
    run: Int32Array,
    trust: Float64Array,
    weights: Float64Array,
    integers: Int32Array,
    floats: Float64Array,
    room: int,
    is_output: bool,
) -> int:
    """Append tokens to a request's own log and tail, having compared an answer's with the last draft.

    Returns how many of them were drafted from recycled logits.
    """
    sketch = sketch_in(integers, floats, room)
    recycled = 0
    if is_output:
        recycled = learn_from_draft(sketch, tokens, Beliefs(trust, weights))
    sketch.size[0] = 0  # it was drawn before these tokens
    if has_room:
        append_all(ring_in(own_cells, own_heads, own_end), tokens, NOBODY, run)
    kept = max(0, len(tail) - len(tokens))
    for i in range(len(tail)):
        tail[i] = tail[len(tail) - kept + i] if i < kept else tokens[len(tokens) - len(tail) + i]
    return recycled


@cache
def compile_log_kernels() -> None:
    """Run every kernel once, so that no request waits for the compiler."""
    ring, drawing, table = RingMemory(SMALLEST_RING), SketchMemory(4), new_table(SMALLEST_TABLE)
    tokens, tail = checked_tokens([1, 2, 1, 2, 1]), np.full(LONGEST_MATCH, GAP, np.int32)
    checked_tokens(tokens)
    write_all(table, 1, tokens, np.ones((5, 2), np.int32))
    copy_since(table, 0, new_table(SMALLEST_TABLE))
    without_owner(table, 1)
    ring.append(tokens, NOBODY)
    run, readable = np.empty(10, np.int32), np.array([1], np.int32)
    trust, weights, integers, floats = (
        initial_log_trust(),
        initial_weights(),
        drawing.integers,
        drawing.floats,
    )
    stream_in(
        ring.cells, ring.heads, ring.end, True, tail, tokens, run, trust, weights, integers, floats, 4, True
    )
    size = draw(
        ring.cells,
        ring.heads,
        ring.end,
        ring.cells,
        ring.heads,
        ring.end,
        table.keys,
        table.successors,
        readable,
        tail,
        trust,
        weights,
        integers,
        floats,
        4,
        4,
        2,
        0,
    )
    side_by_side(drawing.first_nodes(size), 4)
    DraftTree.root_only(0).ancestors()

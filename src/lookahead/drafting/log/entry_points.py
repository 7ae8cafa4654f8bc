"""The kernels that Python calls: they receive a log's arrays one by one. Compiling them ahead of time."""

from functools import cache

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Int64Array
from lookahead.drafting.growth.frequent import count_tokens, new_counts
from lookahead.drafting.growth.modes import side_by_side
from lookahead.drafting.growth.runner_ups import RunnerUps, new_runner_ups, note_rows
from lookahead.drafting.log.calibration import CalibrationState, initial_weights
from lookahead.drafting.log.draft_tree import build_draft_tree, learn_from_draft
from lookahead.drafting.log.matches import LONGEST_MATCH, NO_OWNER, initial_hit_rates
from lookahead.drafting.log.ring import GAP, SMALLEST_RING, RingBuffer, append_all, ring_view
from lookahead.drafting.log.successors import SMALLEST_TABLE, copy_entries, new_table, write_all
from lookahead.drafting.log.workspace import WorkspaceBuffers, workspace_view
from lookahead.drafting.noise import NO_NOISE, Noise, UInt32Array
from lookahead.drafting.store import checked_tokens
from lookahead.drafting.tree import DraftTree
from lookahead.jit import lean_kernel


@lean_kernel
def grow_draft(
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
    alternatives: Int32Array,
    nearly_chosen: Int32Array,
    scores: Float64Array,
    frequent: Int32Array,
    words: UInt32Array,
    lucky: Int32Array,
    next_draw: int,
    known_draws: int,
    hit_rates: Float64Array,
    weights: Float64Array,
    integers: Int32Array,
    floats: Float64Array,
    room: int,
    max_nodes: int,
    branch_length: int,
    is_single: bool,
) -> int:
    """Build a draft in the workspace of `room` nodes in `integers` and `floats`."""
    return build_draft_tree(
        ring_view(own_cells, own_heads, own_end),
        ring_view(shared_cells, shared_heads, shared_end),
        keys,
        successors,
        readable,
        tail,
        RunnerUps(alternatives, nearly_chosen, scores),
        frequent,
        Noise(words, lucky, next_draw, known_draws),
        CalibrationState(hit_rates, weights),
        workspace_view(integers, floats, room),
        max_nodes,
        branch_length,
        is_single,
    )


@lean_kernel
def append_tokens(
    own_cells: Int32Array,
    own_heads: Int32Array,
    own_end: Int64Array,
    has_room: bool,
    tail: Int32Array,
    tokens: Int32Array,
    run: Int32Array,
    hit_rates: Float64Array,
    weights: Float64Array,
    integers: Int32Array,
    floats: Float64Array,
    room: int,
    is_output: bool,
    sources: Int32Array,
) -> None:
    """Append tokens to a request's own log and tail; first learn from an answer's by the last draft.

    `sources`, one for each token, are set where a token was drafted.
    """
    workspace = workspace_view(integers, floats, room)
    if is_output:
        learn_from_draft(workspace, tokens, CalibrationState(hit_rates, weights), sources)
    workspace.size[0] = 0  # that draft is out of date now
    if has_room:
        append_all(ring_view(own_cells, own_heads, own_end), tokens, NO_OWNER, run)
    rest = max(0, len(tail) - len(tokens))
    for i in range(len(tail)):
        tail[i] = tail[len(tail) - rest + i] if i < rest else tokens[len(tokens) - len(tail) + i]


@cache
def compile_log_kernels() -> None:
    """Run every kernel once, so that no request waits for the compiler."""
    ring, draft, table = RingBuffer(SMALLEST_RING), WorkspaceBuffers(4), new_table(SMALLEST_TABLE)
    tokens, tail = checked_tokens([1, 2, 1, 2, 1]), np.full(LONGEST_MATCH, GAP, np.int32)
    checked_tokens(tokens)
    write_all(table, 1, tokens, np.ones((5, 2), np.int32))
    copy_entries(table, np.ones(SMALLEST_TABLE, np.bool_), new_table(SMALLEST_TABLE))
    ring.append(tokens, NO_OWNER)
    run, readable, frequent = np.empty(10, np.int32), np.array([1], np.int32), new_counts()
    count_tokens(frequent, tokens)
    runner_ups = new_runner_ups()
    note_rows(runner_ups, np.ones((5, 2), np.int32), tokens)
    alternatives, nearly_chosen, scores = runner_ups
    own = (ring.cells, ring.heads, ring.end)
    learned, room = (initial_hit_rates(), initial_weights()), (draft.integers, draft.floats)
    append_tokens(*own, True, tail, tokens, run, *learned, *room, 4, True, np.empty(5, np.int32))
    successors = (table.keys, table.successors)
    known = (*own, *own, *successors)
    guesses = (alternatives, nearly_chosen, scores)
    words, lucky = NO_NOISE.words, NO_NOISE.lucky
    size = grow_draft(
        *known, readable, tail, *guesses, frequent, words, lucky, 0, 0, *learned, *room, 4, 4, 2, False
    )
    side_by_side(draft.first_nodes(size), 4)
    DraftTree.root_only(0).ancestors()

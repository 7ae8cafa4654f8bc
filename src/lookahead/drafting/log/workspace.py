"""The workspace of one draft from a log. It is stored until the draft is compared with the tokens that come.

It is cut out of two arrays: each array that a compiled function receives costs time, and a workspace that is
reused need not be allocated for each draft.
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array
from lookahead.drafting.growth.best_first import Frontier, GrowingTree
from lookahead.drafting.growth.ranks import TABLE, RankTable
from lookahead.drafting.growth.runner_ups import ALTERNATIVES
from lookahead.drafting.log.calibration import HINTS
from lookahead.drafting.log.matches import AHEAD, LONGEST_MATCH, MAX_MATCHES, Matches
from lookahead.drafting.log.prediction import MAX_NODE_CANDIDATES, Predictions
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.jit import lean_kernel

MAX_SEARCHES = 4
"""How many new searches for matches a draft has room for, besides the one at node 0."""

_FIXED = 3 + MAX_MATCHES + SUCCESSORS + LONGEST_MATCH + 3 * TABLE + ALTERNATIVES
_PER_NODE, _PER_MATCH, _PER_CANDIDATE, _FLOATS_PER_CANDIDATE = 16, AHEAD + 6, 4 + HINTS, 3


class DraftWorkspace(NamedTuple):
    """A draft under construction.

    Attributes:
        size: int32 [1], nodes of the draft; 0 where there is none.
        tree: Its columns.
        sources: int32 [nodes], where each node comes from: OWN, SHARED or RECYCLED.
        frontier: The nodes that wait to be drafted.
        matches: All matches found for it.
        listed: int32 [4 * matches], the matches at each node, by rank.
        ranges: int32 [nodes, 2], where each node's matches begin and end in `listed`.
        predictions: The candidates at each node.
        votes: int32 [MAX_MATCHES], temporary: the next token of each match at a node.
        successors: int32 [SUCCESSORS], temporary: the model's successors of a node's token.
        run: int32 [LONGEST_MATCH], temporary: the last tokens on the path to a node.
        ranks: The ranks of frequent tokens and of runner-ups.
        alternatives: int32 [ALTERNATIVES], temporary: the model's other choices at a node's parent.
        rows: int32 [nodes], the bucket with the model's successors of each node's token, or NO_TOKEN.
    """

    size: Int32Array
    tree: GrowingTree
    sources: Int32Array
    frontier: Frontier
    matches: Matches
    listed: Int32Array
    ranges: Int32Array
    predictions: Predictions
    votes: Int32Array
    successors: Int32Array
    run: Int32Array
    ranks: RankTable
    alternatives: Int32Array
    rows: Int32Array


@lean_kernel
def matches_for(max_nodes: int) -> int:
    """Return how many matches a draft of `max_nodes` has room for."""
    return MAX_MATCHES * (1 + min(max_nodes, MAX_SEARCHES))


@lean_kernel
def candidates_for(max_nodes: int) -> int:
    """Return how many candidates a draft of `max_nodes` has room for: 64 per node on average."""
    return 64 * max_nodes + MAX_NODE_CANDIDATES


def _workspace_view(integers: Int32Array, floats: Float64Array, max_nodes: int) -> DraftWorkspace:
    """Return the workspace in these arrays."""
    n, m, room = max_nodes, matches_for(max_nodes), candidates_for(max_nodes)
    size, meta, at = integers[:1], integers[1:3], 3
    votes, at = integers[at : at + MAX_MATCHES], at + MAX_MATCHES
    successors, at = integers[at : at + SUCCESSORS], at + SUCCESSORS
    run, at = integers[at : at + LONGEST_MATCH], at + LONGEST_MATCH
    ranked, at = integers[at : at + TABLE], at + TABLE
    frequent_ranks, at = integers[at : at + TABLE], at + TABLE
    runner_up_ranks, at = integers[at : at + TABLE], at + TABLE
    alternatives, at = integers[at : at + ALTERNATIVES], at + ALTERNATIVES
    token_ids, at = integers[at : at + n], at + n
    parents, at = integers[at : at + n], at + n
    depths, at = integers[at : at + n], at + n
    sources, at = integers[at : at + n], at + n
    rows, at = integers[at : at + n], at + n
    order, at = integers[at : at + n - 1], at + n
    waiting, at = integers[at : at + 4 * n].reshape((n, 4)), at + 4 * n
    ranges, at = integers[at : at + 2 * n].reshape((n, 2)), at + 2 * n
    predicted, at = integers[at : at + 4 * n].reshape((n, 4)), at + 4 * n
    continuations, at = integers[at : at + AHEAD * m].reshape((m, AHEAD)), at + AHEAD * m
    ranks, at = integers[at : at + m], at + m
    origins, at = integers[at : at + m], at + m
    listed, at = integers[at : at + 4 * m], at + 4 * m
    tokens, at = integers[at : at + room], at + room
    features, at = integers[at : at + room], at + room
    hints, at = integers[at : at + HINTS * room].reshape((room, HINTS)), at + HINTS * room
    buckets, at = integers[at : at + room], at + room
    ends = integers[at : at + room]
    tree_probabilities, waiting_probabilities = floats[:n], floats[n : 2 * n - 1]
    none_evidence = floats[2 * n : 3 * n]
    evidence, luck, probabilities = floats[3 * n : 3 * n + 3 * room].reshape((3, room))
    return DraftWorkspace(
        size,
        GrowingTree(token_ids, parents, depths, tree_probabilities),
        sources,
        Frontier(waiting_probabilities, order, waiting, meta),
        Matches(continuations, ranks, origins),
        listed,
        ranges,
        Predictions(
            tokens, features, hints, evidence, luck, probabilities, buckets, ends, predicted, none_evidence
        ),
        votes,
        successors,
        run,
        RankTable(ranked, frequent_ranks, runner_up_ranks),
        alternatives,
        rows,
    )


workspace_view = lean_kernel(_workspace_view)


class WorkspaceBuffers:
    """The arrays of a workspace.

    Args:
        max_nodes: The maximum size of a draft, node 0 included; 1 or more.

    Attributes:
        integers: int32, all of the workspace's integers.
        floats: float64, all of its floats.
        max_nodes: As given.
        workspace: Views of them.
    """

    def __init__(self, max_nodes: int) -> None:
        matches, candidates = matches_for(max_nodes), candidates_for(max_nodes)
        integers = _FIXED + _PER_NODE * max_nodes + _PER_MATCH * matches + _PER_CANDIDATE * candidates
        self.integers = np.zeros(integers, np.int32)
        self.floats = np.zeros(3 * max_nodes + _FLOATS_PER_CANDIDATE * candidates, np.float64)
        self.max_nodes = max_nodes
        self.workspace = _workspace_view(self.integers, self.floats, max_nodes)
        # of the tree: token ids, parents and depths, which lie side by side, and probabilities
        self._columns, self._probabilities = (
            self.integers[_FIXED:][: 3 * max_nodes],
            self.floats[:max_nodes],
        )

    def first_nodes(self, size: int) -> GrowingTree:
        """Return a copy of the draft's first `size` nodes."""
        columns, second, third = self._columns.copy(), self.max_nodes, 2 * self.max_nodes
        return GrowingTree(
            columns[:size],
            columns[second : second + size],
            columns[third : third + size],
            self._probabilities[:size].copy(),
        )

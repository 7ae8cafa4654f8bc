"""The memory of one draft from a log: all that growing it needs, kept until what came is compared with it.

It is cut out of two arrays: a compiled function takes each array it is handed a while to look at, and memory
that is kept need not be allocated for each draft.
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array
from lookahead.drafting.growth.best_first import Frontier, Growth
from lookahead.drafting.log.matches import AHEAD, LONGEST_MATCH, MAX_AT_ONCE, Matches
from lookahead.drafting.log.prediction import ROOM_A_NODE, Predictions
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.jit import lean_kernel

MAX_LOOKS = 4
"""Times that fresh matches are looked for at most."""

_FIXED = 3 + MAX_AT_ONCE + SUCCESSORS + LONGEST_MATCH
_A_NODE, _A_MATCH, _SAID, _SAID_FLOATS = 15, AHEAD + 6, 4, 2


class Sketch(NamedTuple):
    """A draft under construction.

    Attributes:
        size: int32 [1], nodes of the draft; 0 where there is none.
        tree: its columns.
        sources: int32 [nodes], where each node comes from: OWN, SHARED or RECYCLED.
        frontier: what waits to be drafted.
        matches: all matches found for it.
        listed: int32 [4 * matches], the matches at each node, by rank.
        ranges: int32 [nodes, 2], where each node's matches begin and end in `listed`.
        said: what may follow each node.
        following: int32 [MAX_AT_ONCE], scratch space: the token that each match of a node goes on with.
        successors: int32 [SUCCESSORS], scratch space: the model's successors of a node's token.
        run: int32 [LONGEST_MATCH], scratch space: the last tokens on the path to a node.
    """

    size: Int32Array
    tree: Growth
    sources: Int32Array
    frontier: Frontier
    matches: Matches
    listed: Int32Array
    ranges: Int32Array
    said: Predictions
    following: Int32Array
    successors: Int32Array
    run: Int32Array


@lean_kernel
def matches_for(max_nodes: int) -> int:
    """Return how many matches there is room for in a draft of so many nodes."""
    return MAX_AT_ONCE * (1 + min(max_nodes, MAX_LOOKS))


@lean_kernel
def candidates_for(max_nodes: int) -> int:
    """Return how many candidates there is room for, 32 a node on average."""
    return 32 * max_nodes + ROOM_A_NODE


def _sketch_in(integers: Int32Array, floats: Float64Array, max_nodes: int) -> Sketch:
    """Return the sketch that lies in this memory."""
    n, m, room = max_nodes, matches_for(max_nodes), candidates_for(max_nodes)
    size, meta, at = integers[:1], integers[1:3], 3
    following, at = integers[at : at + MAX_AT_ONCE], at + MAX_AT_ONCE
    successors, at = integers[at : at + SUCCESSORS], at + SUCCESSORS
    run, at = integers[at : at + LONGEST_MATCH], at + LONGEST_MATCH
    token_ids, at = integers[at : at + n], at + n
    parents, at = integers[at : at + n], at + n
    depths, at = integers[at : at + n], at + n
    sources, at = integers[at : at + n], at + n
    order, at = integers[at : at + n - 1], at + n
    waiting, at = integers[at : at + 4 * n].reshape((n, 4)), at + 4 * n
    ranges, at = integers[at : at + 2 * n].reshape((n, 2)), at + 2 * n
    said_nodes, at = integers[at : at + 4 * n].reshape((n, 4)), at + 4 * n
    ahead, at = integers[at : at + AHEAD * m].reshape((m, AHEAD)), at + AHEAD * m
    ranks, at = integers[at : at + m], at + m
    origins, at = integers[at : at + m], at + m
    listed, at = integers[at : at + 4 * m], at + 4 * m
    tokens, at = integers[at : at + room], at + room
    features, at = integers[at : at + room], at + room
    buckets, at = integers[at : at + room], at + room
    ends = integers[at : at + room]
    probabilities, waiting_chances, rests = floats[:n], floats[n : 2 * n - 1], floats[2 * n : 3 * n]
    evidence, chances = floats[3 * n : 3 * n + room], floats[3 * n + room : 3 * n + 2 * room]
    return Sketch(
        size,
        Growth(token_ids, parents, depths, probabilities),
        sources,
        Frontier(waiting_chances, order, waiting, meta),
        Matches(ahead, ranks, origins),
        listed,
        ranges,
        Predictions(tokens, features, evidence, chances, buckets, ends, said_nodes, rests),
        following,
        successors,
        run,
    )


sketch_in = lean_kernel(_sketch_in)


class SketchMemory:
    """The memory of a sketch.

    Args:
        max_nodes: the most nodes of a draft, node 0 included; 1 or more.

    Attributes:
        integers: int32, all of the sketch's integers.
        floats: float64, all of its floats.
        max_nodes: as given.
        sketch: views of them.
    """

    def __init__(self, max_nodes: int) -> None:
        matches, candidates = matches_for(max_nodes), candidates_for(max_nodes)
        integers = _FIXED + _A_NODE * max_nodes + _A_MATCH * matches + _SAID * candidates
        self.integers = np.zeros(integers, np.int32)
        self.floats = np.zeros(3 * max_nodes + _SAID_FLOATS * candidates, np.float64)
        self.max_nodes = max_nodes
        self.sketch = _sketch_in(self.integers, self.floats, max_nodes)
        # of the tree: token ids, parents and depths, which lie side by side, and probabilities
        self._columns, self._probabilities = (
            self.integers[_FIXED:][: 3 * max_nodes],
            self.floats[:max_nodes],
        )

    def first_nodes(self, size: int) -> Growth:
        """Return a copy of the draft's first `size` nodes."""
        columns, second, third = self._columns.copy(), self.max_nodes, 2 * self.max_nodes
        return Growth(
            columns[:size],
            columns[second : second + size],
            columns[third : third + size],
            self._probabilities[:size].copy(),
        )

"""The draft tree: what drafting hands to verification."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookahead.drafting.arrays import BoolArray, Float64Array, Int32Array
from lookahead.jit import kernel, lean_kernel

_DTYPES = (*(np.dtype(np.int32),) * 3, np.dtype(np.float64))
_NO_FAULT = -1
_FAULTS = (
    "a draft tree needs node 0 and arrays of one length",
    "node 0 is the current token: parent -1, depth 0",
    "a parent must come before its children",
    "a node's depth must be its parent's plus one",
    "token ids must not be negative",
    "a path is at most as probable as its prefix, and never less than impossible",
)


@lean_kernel
def find_fault(
    token_ids: Int32Array, parents: Int32Array, depths: Int32Array, probabilities: Float64Array
) -> int:
    """Return the index in `_FAULTS` of what is wrong with a draft tree's columns, or `_NO_FAULT`."""
    size = len(token_ids)
    if size == 0 or not size == len(parents) == len(depths) == len(probabilities):
        return 0
    fault = 1 if parents[0] != -1 or depths[0] != 0 else _NO_FAULT
    for node in range(size):
        if fault != _NO_FAULT:
            break
        parent = parents[node]
        if node > 0 and not 0 <= parent < node:
            fault = 2
        elif node > 0 and depths[node] != depths[parent] + 1:
            fault = 3
        elif token_ids[node] < 0:
            fault = 4
        elif not 0.0 <= probabilities[node] <= (probabilities[parent] if node > 0 else 1.0):
            fault = 5
    return fault


@kernel
def ancestor_relation(parents: Int32Array) -> BoolArray:
    """Return bool [n, n]: True at (i, j) where j is i or an ancestor of i."""
    size = len(parents)
    above = np.zeros((size, size), np.bool_)
    for node in range(size):
        if node > 0:
            above[node] = above[parents[node]]
        above[node, node] = True
    return above


@dataclass(frozen=True, slots=True, eq=False)
class DraftTree:
    """Candidate tokens under the current token, which is node 0.

    Nodes are in topological order: a parent comes before its children. The constructor checks this, so that
    others need not:

        token_ids     the  cat  dog  sat         the ─┬─ cat ── sat
        parents        -1    0    0    1              └─ dog
        depths          0    1    1    2
        probabilities 1.0  0.6  0.3  0.36

    Attributes:
        token_ids: int32 [n], the token of each node.
        parents: int32 [n], the index of each node's parent; -1 for node 0.
        depths: int32 [n], edges from node 0.
        probabilities: float64 [n], the estimated probability that the model takes the whole path to the node.

    Raises:
        ValueError: The arrays do not describe a tree in topological order.
    """

    token_ids: Int32Array
    parents: Int32Array
    depths: Int32Array
    probabilities: Float64Array

    def __post_init__(self) -> None:
        ids, parents, depths, probs = self.token_ids, self.parents, self.depths, self.probabilities
        dtypes = (ids.dtype, parents.dtype, depths.dtype, probs.dtype)  # no loop: each step makes a tree
        if dtypes != _DTYPES or not ids.ndim == parents.ndim == depths.ndim == probs.ndim == 1:
            message = "a draft tree's columns are int32, int32, int32 and float64, each of one dimension"
            raise ValueError(message)
        fault = find_fault(ids, parents, depths, probs)
        if fault != _NO_FAULT:
            raise ValueError(_FAULTS[fault])

    @classmethod
    def root_only(cls, token_id: int) -> "DraftTree":
        """Return the tree of only node 0, for a plain step."""
        return cls.chain([token_id])

    @classmethod
    def chain(cls, tokens: Sequence[int] | Int32Array, probability: float = 1.0) -> "DraftTree":
        """Return the tree of one branch; each token has this probability, given the tokens before it."""
        size = len(tokens)
        return cls(
            np.array(tokens, np.int32),
            np.arange(-1, size - 1, dtype=np.int32),
            np.arange(size, dtype=np.int32),
            probability ** np.arange(size, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether the tree is one branch."""
        return int(self.depths[-1]) == len(self) - 1

    def first(self, size: int) -> "DraftTree":
        """Return the tree of the first `size` nodes. If it was built best first, it is the best of that size.

        Raises:
            ValueError: The size is below 1 or above the tree's.
        """
        if not 1 <= size <= len(self):
            message = f"size={size} is not allowed; this tree has 1 to {len(self)} nodes to keep"
            raise ValueError(message)
        return DraftTree(
            self.token_ids[:size], self.parents[:size], self.depths[:size], self.probabilities[:size]
        )

    def ancestors(self) -> BoolArray:
        """Return bool [n, n]: True at (i, j) where j is i or an ancestor of i."""
        return ancestor_relation(self.parents)

    def children_with_token(self, nodes: list[int], token_id: int) -> list[int]:
        """Return the children of any of `nodes` that carry `token_id` (several only in parallel drafts)."""
        return [
            int(child) for child in np.flatnonzero(self.token_ids == token_id) if self.parents[child] in nodes
        ]

    def path_to(self, node: int) -> list[int]:
        """Return the nodes from 0 down to `node`."""
        path = [node]
        while self.parents[path[-1]] >= 0:
            path.append(int(self.parents[path[-1]]))
        return path[::-1]

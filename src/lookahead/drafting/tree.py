"""The draft tree: the only currency between drafting and verification."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Candidate tokens under the current token, which is node 0.

    Nodes are in topological order: a parent stands before its children. Validated here, trusted elsewhere.

    Attributes:
        token_ids: int32 [n], the token of each node.
        parents: int32 [n], the index of each node's parent; -1 for node 0.
        depths: int32 [n], edges from node 0.
        probabilities: float64 [n], the estimated chance that the model takes the whole path to the node.

    Raises:
        ValueError: the arrays do not describe a tree in topological order.
    """

    token_ids: Int32Array
    parents: Int32Array
    depths: Int32Array
    probabilities: Float64Array

    def __post_init__(self) -> None:
        size = len(self.token_ids)
        if size == 0 or not size == len(self.parents) == len(self.depths) == len(self.probabilities):
            message = "a draft tree needs node 0 and arrays of one length"
            raise ValueError(message)
        if self.parents[0] != -1 or self.depths[0] != 0:
            message = "node 0 is the current token: parent -1, depth 0"
            raise ValueError(message)
        if size > 1:
            self._check_drafted()

    def _check_drafted(self) -> None:
        parents = self.parents[1:]
        if (parents < 0).any() or (parents >= np.arange(1, len(self.parents))).any():
            message = "a parent must stand before its children"
            raise ValueError(message)
        if (self.depths[1:] != self.depths[parents] + 1).any():
            message = "a node's depth must be its parent's plus one"
            raise ValueError(message)
        if (self.token_ids < 0).any():
            message = "token ids must not be negative"
            raise ValueError(message)
        chances = self.probabilities[1:]
        if not ((chances >= 0) & (chances <= self.probabilities[parents])).all():
            message = "a path is at most as probable as its prefix, and never less than impossible"
            raise ValueError(message)

    @classmethod
    def root_only(cls, token_id: int) -> "DraftTree":
        """Return the tree that drafts nothing: a plain step."""
        return cls(
            np.array([token_id], np.int32),
            np.array([-1], np.int32),
            np.zeros(1, np.int32),
            np.ones(1, np.float64),
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    def ancestors(self) -> BoolArray:
        """Return bool [n, n]: True at (i, j) where j is i itself or above it."""
        size = len(self)
        visible = np.eye(size, dtype=np.bool_)
        for node in range(1, size):
            visible[node] |= visible[self.parents[node]]
        return visible

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

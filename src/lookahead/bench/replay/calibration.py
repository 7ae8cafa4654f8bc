"""Are a draft's probabilities true? What was predicted for each node, against how often it came.

A node is judged where its parent was accepted: only there does the recording say which token came. What is
compared is the chance of the node *given* its parent, p(node) ÷ p(parent).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array
from lookahead.drafting.tree import DraftTree

BINS = 20


@dataclass
class Calibration:
    """Judged nodes in bins of equal width by their predicted chance.

    Attributes:
        predicted: float64 [bins], predicted chances summed.
        came: float64 [bins], how many nodes were the token that came.
        count: float64 [bins], how many nodes were judged.
    """

    predicted: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    came: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    count: Float64Array = field(default_factory=lambda: np.zeros(BINS))

    def note(self, tree: DraftTree, accepted: Sequence[Sequence[int]], continuation: Int32Array) -> None:
        """Judge the children of every accepted node.

        Args:
            tree: a draft.
            accepted: its accepted nodes, level by level, node 0 first.
            continuation: the tokens that came, at least as many as the tree has levels under node 0.
        """
        for nodes, token in zip(accepted, continuation, strict=False):
            children = np.flatnonzero(np.isin(tree.parents, nodes))
            above = tree.probabilities[tree.parents[children]]
            chance = np.where(above > 0, tree.probabilities[children] / np.where(above > 0, above, 1), 0.0)
            places = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
            np.add.at(self.predicted, places, chance)
            np.add.at(self.came, places, tree.token_ids[children] == token)
            np.add.at(self.count, places, 1)

    def summary(self) -> dict[str, Any] | None:
        """Return the bins that hold a node, and the expected calibration error; None without judged nodes.

        The error is how far prediction and observation lie apart in a bin, averaged over all judged nodes.
        """
        total = self.count.sum()
        if total == 0:
            return None
        filled = np.flatnonzero(self.count)
        error = np.abs(self.predicted - self.came).sum() / total
        bins = [
            {
                "predicted": round(float(self.predicted[place] / self.count[place]), 4),
                "observed": round(float(self.came[place] / self.count[place]), 4),
                "count": int(self.count[place]),
            }
            for place in filled
        ]
        return {"bins": bins, "expected_calibration_error": round(float(error), 4)}

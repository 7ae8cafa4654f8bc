"""Are the probabilities of drafts true? Predicted probabilities against how often nodes were accepted.

A node is judged if its parent was accepted: only then does the recording say which token came next. The
judged probability is the one given the parent, p(node) ÷ p(parent).
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
    """Judged nodes in bins of equal width by their predicted probability.

    Attributes:
        predicted: float64 [bins], sum of predicted probabilities.
        came: float64 [bins], number of nodes that were the next token.
        count: float64 [bins], number of judged nodes.
    """

    predicted: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    came: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    count: Float64Array = field(default_factory=lambda: np.zeros(BINS))

    def note(self, tree: DraftTree, accepted: Sequence[Sequence[int]], continuation: Int32Array) -> None:
        """Judge the children of every accepted node.

        Args:
            tree: A draft.
            accepted: The accepted nodes of each level, node 0 first.
            continuation: int32 [n], the tokens that came next.
        """
        for nodes, token in zip(accepted, continuation, strict=False):
            children = np.flatnonzero(np.isin(tree.parents, nodes))
            above = tree.probabilities[tree.parents[children]]
            given = np.where(above > 0, tree.probabilities[children] / np.where(above > 0, above, 1), 0.0)
            bins = np.minimum((given * BINS).astype(np.int64), BINS - 1)
            np.add.at(self.predicted, bins, given)
            np.add.at(self.came, bins, tree.token_ids[children] == token)
            np.add.at(self.count, bins, 1)

    def summary(self) -> dict[str, Any] | None:
        """Return the bins that are not empty, and the expected calibration error; None without judged nodes.

        The error is |predicted - observed| of each bin, averaged over all judged nodes.
        """
        total = self.count.sum()
        if total == 0:
            return None
        filled = np.flatnonzero(self.count)
        error = np.abs(self.predicted - self.came).sum() / total
        bins = [
            {
                "predicted": round(float(self.predicted[index] / self.count[index]), 4),
                "observed": round(float(self.came[index] / self.count[index]), 4),
                "count": int(self.count[index]),
            }
            for index in filled
        ]
        return {"bins": bins, "expected_calibration_error": round(float(error), 4)}

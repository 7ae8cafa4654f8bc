"""The result of a forward pass over draft trees: logits by row and, if computed, each node's argmax."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lookahead.drafting.tree import DraftTree


class TreeLogits(dict[int, Tensor]):
    """Logits [n, V] by row, each node's for the token after it.

    Args:
        trees: The draft of each row.
        logit_rows: For each row, its row in `logits`.
        logits: [R, size, V], size at least the largest tree's nodes; or R tensors [n, V] where rows differ.
        argmax: int64 [R, size] on the device of the logits; None if it was not computed.
    """

    def __init__(
        self,
        trees: Mapping[int, DraftTree],
        logit_rows: Mapping[int, int],
        logits: Tensor | Sequence[Tensor],
        argmax: Tensor | None = None,
    ) -> None:
        super().__init__({row: logits[logit_rows[row]][: len(tree)] for row, tree in trees.items()})
        self._logit_rows = logit_rows
        self._argmax = argmax
        self._copied: dict[int, list[int]] | None = None

    def argmax(self) -> dict[int, list[int]] | None:
        """Return each row's argmax by node, in one copy from the device; None if it was not computed."""
        if self._copied is None and self._argmax is not None:
            copied = self._argmax.tolist()
            self._copied = {row: copied[logit_row] for row, logit_row in self._logit_rows.items()}
        return self._copied


def argmax_of(logits: Mapping[int, Tensor]) -> dict[int, list[int]] | None:
    """Return the argmax of each node by row; None if it was not computed with the logits."""
    return logits.argmax() if isinstance(logits, TreeLogits) else None

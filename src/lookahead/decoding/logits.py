"""What a forward over draft trees says: logits by row and, where known, each node's likeliest token."""

from collections.abc import Container, Mapping, Sequence

from torch import Tensor

from lookahead.drafting.tree import DraftTree


class VerifiedLogits(dict[int, Tensor]):
    """Logits [n, V] by row, each node's for the token after it.

    Args:
        rows: the rows of the forward.
        trees: the draft of each.
        logits: [B, size, V], size the largest tree's or more.
        likeliest: int64 [B, size] on the device of the logits, their argmax; None where nobody computed it.
        asked: those of the rows whose logits anybody wants; None for all.
    """

    def __init__(
        self,
        rows: Sequence[int],
        trees: Sequence[DraftTree],
        logits: Tensor,
        argmax: Tensor | None = None,
        *,
        asked: Container[int] | None = None,
    ) -> None:
        of_rows = zip(rows, trees, logits, strict=True)
        super().__init__(
            {row: of_row[: len(tree)] for row, tree, of_row in of_rows if asked is None or row in asked}
        )
        self._rows = rows
        self._argmax = argmax
        self._copied: dict[int, list[int]] | None = None

    def argmax(self) -> dict[int, list[int]] | None:
        """Return each row's likeliest tokens by node, in one copy from the device; None if not known."""
        if self._copied is None and self._argmax is not None:
            self._copied = dict(zip(self._rows, self._argmax.tolist(), strict=True))
        return self._copied


def argmax_of(logits: Mapping[int, Tensor]) -> dict[int, list[int]] | None:
    """Return the likeliest token of each node by row, where whoever computed the logits has them."""
    return logits.argmax() if isinstance(logits, VerifiedLogits) else None

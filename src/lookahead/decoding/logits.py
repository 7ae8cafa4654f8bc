"""The result of a forward pass over draft trees: logits by row and, if computed, a summary of them."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lookahead.decoding.logits_summary import LogitsSummary
from lookahead.decoding.sampling.topk import topk_successors
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree


class TreeLogits(dict[int, Tensor]):
    """Logits [n, V] by row, each node's for the token after it.

    Args:
        trees: The draft of each row.
        logit_rows: For each row, its row in `logits`.
        logits: [R, size, V], size at least the largest tree's nodes; or R tensors [n, V] where rows differ.
        summary: int32 [R, size, columns] on the CPU, of `summarize`; None if it was not computed.
        is_usual: Whether the step took the time that such steps usually take.
        is_captured: Whether the step was the replay of a graph.

    Attributes:
        summaries: By row, if there is a summary.
        is_usual: As given.
        is_captured: As given.
    """

    def __init__(
        self,
        trees: Mapping[int, DraftTree],
        logit_rows: Mapping[int, int],
        logits: Tensor | Sequence[Tensor],
        summary: Tensor | None = None,
        *,
        is_usual: bool = True,
        is_captured: bool = False,
    ) -> None:
        super().__init__({row: logits[logit_rows[row]][: len(tree)] for row, tree in trees.items()})
        self.is_usual, self.is_captured = is_usual, is_captured
        self.summaries: dict[int, LogitsSummary] = {}
        if summary is not None:
            table = summary.numpy().copy()  # the next step overwrites it
            self.summaries = {
                row: LogitsSummary(table[logit_rows[row], : len(tree)]) for row, tree in trees.items()
            }


def summary_of(logits: Mapping[int, Tensor], row: int) -> LogitsSummary | None:
    """Return what is known of a row's logits; None if it was not computed with them."""
    return logits.summaries.get(row) if isinstance(logits, TreeLogits) else None


def took_usual_time(logits: Mapping[int, Tensor]) -> bool:
    """Return whether the step of these logits took the time that such steps usually take."""
    return logits.is_usual if isinstance(logits, TreeLogits) else True


def was_captured(logits: Mapping[int, Tensor]) -> bool:
    """Return whether the step of these logits was the replay of a graph."""
    return isinstance(logits, TreeLogits) and logits.is_captured


def successors_of(logits: Mapping[int, Tensor], row: int) -> Int32Array:
    """Return the model's top-k after each node of a row, int32 [n, k]."""
    summary = summary_of(logits, row)
    return topk_successors(logits[row]) if summary is None else summary.successors


def rows_with_nan(rows: Iterable[int], logits: Mapping[int, Tensor]) -> set[int]:
    """Return which of these rows have a NaN among the logits of their first node."""
    known = {row: summary_of(logits, row) for row in rows}
    found = {row for row, summary in known.items() if summary is not None and summary.is_nan(0)}
    unknown = [row for row, summary in known.items() if summary is None]
    if unknown:
        roots = torch.stack([logits[row][0] for row in unknown])
        is_nan: list[bool] = roots.amax(dim=-1).isnan().tolist()
        found |= {row for row, has_nan in zip(unknown, is_nan, strict=True) if has_nan}
    return found

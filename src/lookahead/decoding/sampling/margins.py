"""The smallest margin of an answer: how much the best score of a greedy choice exceeded the second best.

Rounding can change a choice only if its margin is a few units of rounding: the margin tells a near tie from a
bug.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lookahead.decoding.sampling.topk import topk_indices


class SmallestMargin:
    """The smallest margin of the greedy choices so far; sampled tokens have no margin."""

    def __init__(self) -> None:
        self._smallest = math.inf
        self._on_device: Tensor | None = None  # the smallest that no copy has brought to the host

    def note(self, scores: Tensor, left_out: Sequence[int] = ()) -> None:
        """Note the margins of scores [B, V], except in the rows that are left out.

        Margins on a device stay there: only `value` waits for them.
        """
        if scores.device.type == "cpu":
            self.argmax_and_note(scores, left_out)
        elif scores.shape[-1] > 1:
            largest = scores.topk(2).values.float()
            margins = (largest[:, 0] - largest[:, 1]).nan_to_num(nan=torch.inf, posinf=torch.inf)
            for row in left_out:  # a list as an index would be copied to the device
                margins[row] = torch.inf
            smallest = margins.amin()
            before = self._on_device
            self._on_device = smallest if before is None else torch.minimum(smallest, before)

    def include(self, margin: float) -> None:
        """Note one choice's margin; one that is NaN or infinite is of a choice without a second token."""
        if 0 <= margin < self._smallest:
            self._smallest = margin

    def argmax_and_note(self, scores: Tensor, left_out: Sequence[int] = ()) -> list[int]:
        """Return the argmax of each row of scores [B, V] on the CPU, and note its margin."""
        indices = topk_indices(scores, min(2, scores.shape[-1]))
        for row, best in enumerate(indices):
            if len(best) > 1 and row not in left_out:
                margin = float(scores[row, best[0]]) - float(scores[row, best[1]])
                self.include(margin)
        chosen: list[int] = indices[:, 0].tolist()
        return chosen

    @property
    def value(self) -> float | None:
        """The smallest margin; None if no choice had a second token."""
        smallest = self._smallest if self._on_device is None else min(self._smallest, float(self._on_device))
        return smallest if smallest < math.inf else None


def smallest_of(values: Sequence[float | None]) -> float | None:
    """Return the smallest of the values that are not None; None if there are none."""
    return min((value for value in values if value is not None), default=None)

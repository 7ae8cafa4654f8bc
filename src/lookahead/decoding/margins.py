"""How near a tie came: the likeliest token's score less the next one's, the smallest of an answer.

Rounding can only turn a choice where that is a few units of rounding: it tells a near tie from a bug.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lookahead.decoding.recycling import pick_largest


class SmallestMargin:
    """The smallest margin of the greedy choices seen; of drawn tokens there is none."""

    def __init__(self) -> None:
        self._smallest: float | Tensor = float("inf")

    def see(self, scores: Tensor, left_out: Sequence[int] = ()) -> None:
        """Take account of scores [B, V] that the likeliest was chosen from; rows may be left out.

        What is on a device stays there: nothing waits for it before `value` is asked for.
        """
        if scores.shape[-1] < 2:
            return
        if scores.dtype == torch.float32 and scores.device.type == "cpu":
            self._smallest = min(self._smallest, _on_the_cpu(scores, left_out))
            return
        largest = scores.topk(2).values.float()
        margins = (largest[:, 0] - largest[:, 1]).nan_to_num(nan=torch.inf, posinf=torch.inf)
        margins[list(left_out)] = torch.inf
        seen = torch.as_tensor(self._smallest, device=margins.device)
        self._smallest = torch.minimum(margins.amin(), seen)

    @property
    def value(self) -> float | None:
        """The smallest margin; None where no choice had a second token to choose."""
        smallest = float(self._smallest)
        return smallest if smallest < float("inf") else None


def _on_the_cpu(scores: Tensor, left_out: Sequence[int]) -> float:
    """Return the smallest margin of the rows of float32 [B, V]; infinity where it is no number."""
    numbers = scores.detach().contiguous().numpy()
    places = np.empty((len(numbers), 2), np.int32)
    pick_largest(numbers.view(np.int32), places)
    pairs = (
        (float(row[first]), float(row[second])) for row, (first, second) in zip(numbers, places, strict=True)
    )
    margins = [first - second for place, (first, second) in enumerate(pairs) if place not in left_out]
    return min((margin for margin in margins if margin >= 0), default=float("inf"))


def smallest_of(values: Sequence[float | None]) -> float | None:
    """Return the smallest of those that there are."""
    return min((value for value in values if value is not None), default=None)

"""How near a tie came: the likeliest token's score less the next one's, the smallest of an answer.

Rounding can only turn a choice where that is a few units of rounding: it tells a near tie from a bug.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookahead.decoding.sampling.topk import topk_indices


class SmallestMargin:
    """The smallest margin of the greedy choices seen; of drawn tokens there is none."""

    def __init__(self) -> None:
        self._smallest: float | Tensor = float("inf")

    def see(self, scores: Tensor, left_out: Sequence[int] = ()) -> None:
        """Take account of scores [B, V] that the likeliest was chosen from; rows may be left out.

        What is on a device stays there: nothing waits for it before `value` is asked for.
        """
        if scores.device.type == "cpu":
            self.choose(scores, left_out)
        elif scores.shape[-1] > 1:
            largest = scores.topk(2).values.float()
            margins = (largest[:, 0] - largest[:, 1]).nan_to_num(nan=torch.inf, posinf=torch.inf)
            margins[list(left_out)] = torch.inf
            seen = torch.as_tensor(self._smallest, device=margins.device)
            self._smallest = torch.minimum(margins.amin(), seen)

    def choose(self, scores: Tensor, left_out: Sequence[int] = ()) -> list[int]:
        """Return the likeliest token by each row of scores [B, V] on the CPU, and take account of them."""
        places = topk_indices(scores, min(2, scores.shape[-1]))
        for row, of_row in enumerate(places):
            if len(of_row) > 1 and row not in left_out:
                margin = float(scores[row, of_row[0]]) - float(scores[row, of_row[1]])
                if 0 <= margin < self._smallest:
                    self._smallest = margin
        chosen: list[int] = places[:, 0].tolist()
        return chosen

    @property
    def value(self) -> float | None:
        """The smallest margin; None where no choice had a second token to choose."""
        smallest = float(self._smallest)
        return smallest if smallest < float("inf") else None


def smallest_of(values: Sequence[float | None]) -> float | None:
    """Return the smallest of those that there are."""
    return min((value for value in values if value is not None), default=None)

"""Counting the steps that are fused: a test of them means nothing where there are none."""

from typing import NamedTuple

import pytest

from lookahead.backends.cpu.decoder import FusedDecoder


class FusedSteps(NamedTuple):
    """What fused steps there were.

    Attributes:
        sizes: the nodes of each row's tree, padding included.
        lengths: the tokens that each row held in the cache.
    """

    sizes: list[int]
    lengths: list[list[int]]

    def taken(self) -> int:
        """Return how many there were since this was last asked."""
        count = len(self.sizes)
        self.sizes.clear()
        self.lengths.clear()
        return count


@pytest.fixture
def fused_steps(monkeypatch):
    steps, forward = FusedSteps([], []), FusedDecoder.forward

    def counted(self, embedded, turning, rows, start, cache):
        steps.sizes.append(embedded.shape[1])
        steps.lengths.append([row.length for row in rows])
        return forward(self, embedded, turning, rows, start, cache)

    monkeypatch.setattr(FusedDecoder, "forward", counted)
    return steps

"""Counting the steps that are fused: a test of them means nothing where there are none."""

from typing import NamedTuple

import pytest

from lookahead.backends.cpu.decoder import CpuDecoder


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
    steps, forward = FusedSteps([], []), CpuDecoder.forward

    def counted(self, embedded, rope, rows, cache_rows, cache):
        steps.sizes.append(embedded.shape[1])
        steps.lengths.append([row.length for row in rows])
        return forward(self, embedded, rope, rows, cache_rows, cache)

    monkeypatch.setattr(CpuDecoder, "forward", counted)
    return steps

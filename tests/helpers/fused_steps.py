"""Counting the steps that are fused: a test of them means nothing where there are none."""

from typing import NamedTuple

import numpy as np
import pytest

from lookahead.backends.cpu.decoder import CpuDecoder


class FusedSteps(NamedTuple):
    """What the compiled decoder was given: draft trees, and parts of prompts.

    Attributes:
        sizes: for each step, the nodes of the largest tree.
        lengths: for each step, the slots that held each row's text.
        chunks: for each forward pass over prompts, the tokens of each row.
    """

    sizes: list[int]
    lengths: list[list[int]]
    chunks: list[list[int]]

    def taken(self) -> int:
        """Return how many steps there were since this was last asked."""
        count = len(self.sizes)
        self.sizes.clear()
        self.lengths.clear()
        return count

    def read(self) -> int:
        """Return how many tokens of prompts were read since this was last asked."""
        count = sum(map(sum, self.chunks))
        self.chunks.clear()
        return count


@pytest.fixture
def fused_steps(monkeypatch):
    found, forward = FusedSteps([], [], []), CpuDecoder.forward

    def counted(self, embedded, rope, trees, cache, logits_of=None):
        if logits_of is None:
            found.sizes.append(int(np.diff(trees.begins).max()))
            found.lengths.append(trees.lengths.tolist())
        else:
            found.chunks.append(np.diff(trees.begins).tolist())
        return forward(self, embedded, rope, trees, cache, logits_of)

    monkeypatch.setattr(CpuDecoder, "forward", counted)
    return found

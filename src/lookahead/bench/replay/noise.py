"""The noise that a recorded answer was sampled with, made again from its seed."""

from typing import Protocol, runtime_checkable

import torch

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.known_noise import KnownNoise
from lookahead.decoding.sampling.noise_ahead import NoiseAhead
from lookahead.drafting.noise import NO_NOISE, Noise


@runtime_checkable
class DraftsByNoise(Protocol):
    """A drafter that takes the noise of the coming draws.

    Attributes:
        noise: Set before each draft.
    """

    noise: Noise


class ReplayedNoise:
    """Follows the generator of one answer, a draw of [1, V] for each of its tokens.

    Args:
        seed: The answer's.
        vocabulary_size: V.
    """

    def __init__(self, seed: int, vocabulary_size: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._ahead = NoiseAhead(self._generator, rows=1, vocabulary_size=vocabulary_size)
        self._draw = torch.empty(1, vocabulary_size)
        self._drawn = 0

    def after(self, tokens: int) -> Noise:
        """Return what is known of the draws after this many tokens of the answer."""
        while self._drawn < tokens:
            self._draw.exponential_(1, generator=self._generator)
            self._drawn += 1
        return self._ahead.of_row(0) or NO_NOISE


def replayed_noise(trace: Trace, known: KnownNoise) -> ReplayedNoise | None:
    """Return the noise that a drafter may know; None for greedy answers, and where it may know nothing."""
    if trace.seed is None or trace.vocabulary_size is None or known is KnownNoise.NONE:
        return None
    return ReplayedNoise(trace.seed + (known is KnownNoise.OTHER), trace.vocabulary_size)

"""Questions without end, made of a few hundred recorded answers.

A tenant's questions are the recorded traces in an order of its own, disguised. When it has asked them all, it
asks them again in another disguise. A disguise permutes the token ids of a trace's prompt, answer and
successors; the 256 most frequent tokens keep theirs, as in `bench/replay/full_memory.py`. So each question is
another text, with the repetition within it, and to the tenant's other questions, that was recorded.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.drafting.arrays import Int32Array, Int64Array

UNDISGUISED = 256
"""The most frequent tokens: commas and "the" are the same in any text."""
_KEPT_DISGUISES = 2**16


class Library:
    """The questions of all tenants, by number.

    Args:
        traces: Recorded answers.
        seed: Of the orders and the disguises.
        undisguised: How many of the most frequent tokens keep their ids.
    """

    def __init__(self, traces: Sequence[Trace], *, seed: int, undisguised: int = UNDISGUISED) -> None:
        self._traces, self._seed = traces, seed
        answers = np.concatenate([trace.output_ids for trace in traces])
        others = [part.ravel() for trace in traces for part in (trace.prompt_ids, trace.successor_ids)]
        tokens, counts = np.unique(answers, return_counts=True)
        by_frequency = tokens[np.argsort(-counts, kind="stable")]
        rest = np.setdiff1d(np.concatenate(others), tokens)
        self._permuted = np.concatenate([by_frequency, rest])[undisguised:].astype(np.int32)
        self._rank = np.full(1 + max(int(tokens.max()), int(rest.max(initial=0))), -1, np.int64)
        self._rank[self._permuted] = np.arange(len(self._permuted))
        self._order = lru_cache(_KEPT_DISGUISES)(self._new_order)
        self._disguise = lru_cache(_KEPT_DISGUISES)(self._new_disguise)

    def trace(self, tenant: int, number: int) -> Trace:
        """Return a tenant's question of that number, with its answer."""
        found = self._recorded(tenant, number)
        disguise = self._disguise(tenant, number // len(self._traces))
        return Trace(
            trace_id=found.trace_id,
            category=found.category,
            prompt_ids=self._disguised(found.prompt_ids, disguise),
            output_ids=self._disguised(found.output_ids, disguise),
            successor_ids=self._disguised(found.successor_ids, disguise),
        )

    def answer(self, tenant: int, number: int) -> Int32Array:
        """Return only the answer."""
        disguise = self._disguise(tenant, number // len(self._traces))
        return self._disguised(self._recorded(tenant, number).output_ids, disguise)

    def about(self, tenant: int, number: int) -> tuple[str, int]:
        """Return a question's category, and the tokens of its answer after the first."""
        recorded = self._recorded(tenant, number)
        return recorded.category, len(recorded.output_ids) - 1

    def prefix(self, tenant: int, number: int, tokens: int) -> Int32Array:
        """Return the first tokens of the prompt."""
        disguise = self._disguise(tenant, number // len(self._traces))
        return self._disguised(self._recorded(tenant, number).prompt_ids[:tokens], disguise)

    def _recorded(self, tenant: int, number: int) -> Trace:
        return self._traces[int(self._order(tenant)[number % len(self._traces)])]

    def _disguised(self, tokens: Int32Array, disguise: tuple[int, int]) -> Int32Array:
        factor, shift = disguise
        rank = self._rank[tokens]
        if len(self._permuted) == 0:
            return tokens
        permuted = self._permuted[(rank * factor + shift) % len(self._permuted)]
        return np.where(rank < 0, tokens, permuted)

    def _new_order(self, tenant: int) -> Int64Array:
        return np.random.default_rng([self._seed, tenant]).permutation(len(self._traces))

    def _new_disguise(self, tenant: int, turn: int) -> tuple[int, int]:
        """Return a factor and a shift: multiplied and shifted, ranks are all ranks in another order."""
        size = max(1, len(self._permuted))
        rng = np.random.default_rng([self._seed, tenant, turn])
        factor = int(rng.integers(1, size + 1))
        while gcd(factor, size) != 1:
            factor = int(rng.integers(1, size + 1))
        return factor, int(rng.integers(size))

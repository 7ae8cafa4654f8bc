"""Prompt lookup, as in transformers (`prompt_lookup_num_tokens`)."""

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from research.peers.peer import Peer, chain_tree


class PromptLookup(Peer):
    """transformers' prompt lookup: copy what followed the first earlier occurrence of the last tokens.

    Args:
        longest_match: Tokens of the longest n-gram to match; shorter ones are tried after it.
        max_tokens: Maximum number of copied tokens.
    """

    def __init__(self, longest_match: int = 3, max_tokens: int = 10) -> None:
        self._longest_match = longest_match
        self._max_tokens = max_tokens
        self._context: Int32Array = np.zeros(0, np.int32)

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._context = prompt_ids

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return a chain."""
        length = min(self._max_tokens, draft_tokens, max_depth)
        return chain_tree(int(self._context[-1]), self._copied(length))

    def learn(self, token_ids: Int32Array) -> None:
        """Append tokens of the answer."""
        self._context = np.concatenate([self._context, token_ids])

    def end(self) -> None:
        """Forget everything."""
        self._context = self._context[:0]

    @property
    def nbytes(self) -> int:
        """0: nothing outlives a request."""
        return 0

    def _copied(self, length: int) -> Int32Array:
        context = self._context
        for size in range(min(self._longest_match, len(context) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(context[:-1], size)
            matches = np.flatnonzero((windows == context[-size:]).all(axis=1))
            if len(matches):
                start = int(matches[0]) + size
                return context[start : start + max(0, length)]
        return context[:0]

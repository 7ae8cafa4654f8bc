"""LLMA (arXiv 2304.04487): one branch, copied from a reference text after the answer's last tokens.

As in its published code: look up the last n tokens of the *answer* in the references, n from 5 down to 1,
and copy what follows the first occurrence. The references are the prompt, with its retrieved documents, and,
as in the paper's cache-assisted use, earlier answers, the newest first.
"""

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from research.peers.peer import Peer, chain_tree, measured_bytes

Gram = tuple[int, ...]


class LLMA(Peer):
    """LLMA; the copy is as long as the draft may be.

    Args:
        longest_match: Tokens of the longest n-gram to match; shorter ones are tried after it.
    """

    def __init__(self, longest_match: int = 5) -> None:
        self._longest_match = longest_match
        self._answers: list[list[int]] = []
        self._in_answers: dict[Gram, tuple[int, int]] = {}
        self._in_prompt: dict[Gram, int] = {}
        self._prompt: list[int] = []
        self._answer: list[int] = []

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._prompt, self._answer = prompt_ids.tolist(), []
        self._in_prompt = self._first_ends(self._prompt)

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return a chain."""
        copied = self._copied(min(draft_tokens, max_depth))
        return chain_tree(self._answer[-1], np.array(copied, np.int32))

    def learn(self, token_ids: Int32Array) -> None:
        """Append tokens of the answer."""
        self._answer += token_ids.tolist()

    def end(self) -> None:
        """Forget the prompt, and make the answer a reference."""
        number = len(self._answers)
        self._answers.append(self._answer)
        ends = self._first_ends(self._answer)
        self._in_answers.update({gram: (number, end) for gram, end in ends.items()})
        self._prompt, self._answer, self._in_prompt = [], [], {}

    @property
    def nbytes(self) -> int:
        """Bytes of earlier answers and of the index over them."""
        return measured_bytes([self._answers, self._in_answers])

    def _first_ends(self, tokens: list[int]) -> dict[Gram, int]:
        """Return the end of each n-gram's first occurrence."""
        ends: dict[Gram, int] = {}
        for size in range(1, self._longest_match + 1):
            for end in range(size, len(tokens) + 1):
                ends.setdefault(tuple(tokens[end - size : end]), end)
        return ends

    def _copied(self, length: int) -> list[int]:
        for size in range(min(self._longest_match, len(self._answer)), 0, -1):
            gram = tuple(self._answer[-size:])
            if gram in self._in_prompt:
                end = self._in_prompt[gram]
                return self._prompt[end : end + length]
            if gram in self._in_answers:
                number, end = self._in_answers[gram]
                return self._answers[number][end : end + length]
        return []

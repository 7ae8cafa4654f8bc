"""`FollowerCorpus`: the corpus of a tensor-parallel rank that does not draft."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lookahead.drafting.arrays import Int64Array
from lookahead.integrations.sglang.corpus import documents
from lookahead.integrations.sglang.trees import masks


class FollowerCorpus:
    """Receives the drafts of the rank that holds the memory.

    All ranks of a tensor-parallel group must verify the same tokens. Two memories would not stay equal: they
    are loaded, exchanged and given corpora at different times.

    Args:
        draft_token_num: Nodes that the worker verifies for each row.
        receive: Overwrites an array, int64 [2, rows, n], with the drafts.
    """

    def __init__(self, draft_token_num: int, receive: Callable[[Int64Array], None]) -> None:
        self.draft_token_num, self._receive = draft_token_num, receive

    def __contains__(self, rid: str) -> bool:
        return True

    def open(self, rid: str, prompt: Sequence[int], **known: Any) -> None:
        """Do nothing: the rank that drafts has opened the request."""

    def batch_get(
        self,
        req_ids: Sequence[str],
        batch_tokens: Sequence[Sequence[int]],  # noqa: ARG002  # SGLang gives it
        total_lens: Sequence[int],  # noqa: ARG002  # SGLang gives it
    ) -> tuple[Int64Array, Int64Array]:
        """Return the drafts of the rank that holds the memory."""
        drafts = np.zeros((2, len(req_ids), self.draft_token_num), np.int64)
        self._receive(drafts)
        tokens, parents = drafts
        return tokens.reshape(-1), masks(parents).reshape(-1)

    def batch_put(self, batch_tokens: Sequence[Sequence[int]]) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def reset(self) -> None:
        """Do nothing."""

    def erase_match_state(self, req_ids: Iterable[str]) -> None:
        """Do nothing."""

    def load_external_corpus_named(
        self,
        corpus_id: str,  # noqa: ARG002  # SGLang gives it
        chunks: Iterable[Sequence[int]],
    ) -> int:
        """Return how many tokens the rank that holds the memory has loaded."""
        return sum(map(len, documents(chunks)))

    def commit_external_corpus_load(self, corpus_id: str, loaded_token_count: int) -> None:
        """Do nothing."""

    def remove_external_corpus(self, corpus_id: str) -> None:
        """Do nothing."""

    def list_external_corpora(self) -> dict[str, int]:
        """Return nothing: SGLang asks the first rank."""
        return {}

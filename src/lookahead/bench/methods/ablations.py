"""A draft store with one of the method's ideas taken out, to see what the idea gives (the paper's ablation).

Each wraps a store, so that the product needs no switch for the benchmark's sake. To add one: write a class
with what differs, and give it a line in `ABLATIONS`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    DraftStore,
    Origin,
    RequestId,
    TokenIds,
    checked_tokens,
)
from lookahead.drafting.tree import DraftTree

MakeStore = Callable[[], DraftStore]

_CONTEXT_TOKENS = 8
"""So many of an answer's last tokens are what drafts continue, where the answer itself is not inserted."""


class AblatedStore:
    """A draft store that hands everything on; its children change one thing.

    Args:
        make_store: makes the store behind it, a fresh one each time.
    """

    def __init__(self, make_store: MakeStore) -> None:
        self._make_store = make_store
        self._store = make_store()
        self.recycles = self._store.recycles

    def open(
        self, request: RequestId, *, namespace: str = DEFAULT_NAMESPACE, reads: Sequence[str] = ()
    ) -> None:
        """Open a request."""
        self._store.open(request, namespace=namespace, reads=reads)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence."""
        self._store.insert(request, token_ids, origin)

    def propose(
        self, request: RequestId, *, decoding_length: int, branch_length: int, mode: DraftMode
    ) -> DraftTree:
        """Return a draft."""
        return self._store.propose(
            request, decoding_length=decoding_length, branch_length=branch_length, mode=mode
        )

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Recycle the model's likeliest successors."""
        self._store.recycle(request, token_ids, successors)

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Learn what is likely after each token of the vocabulary."""
        self._store.learn_vocabulary(successors)

    def recycled_tokens(self, request: RequestId) -> int:
        """Return how many tokens of a request came as recycled logits had drafted them."""
        return self._store.recycled_tokens(request)

    def forget(self, request: RequestId) -> None:
        """Close a request."""
        self._store.forget(request)

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember a text as an answer."""
        self._store.remember(token_ids, namespace)

    def snapshot(self) -> dict[str, Any]:
        """Return copies of what outlives requests."""
        return self._store.snapshot()

    @property
    def nbytes(self) -> int:
        """Bytes of the store behind it."""
        return self._store.nbytes


class WithoutPrompts(AblatedStore):
    """No prompt insertion: of a prompt there is its last token alone, for drafts to continue."""

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Leave out all of a prompt but its last token."""
        tokens = checked_tokens(token_ids)
        super().insert(request, tokens[-1:] if origin is Origin.PROMPT else tokens, origin)


class WithoutEarlierAnswers(AblatedStore):
    """Nothing outlives its request: the memory is a new one for each."""

    def forget(self, request: RequestId) -> None:
        """Close a request and begin anew."""
        super().forget(request)
        self._store = self._make_store()

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember nothing."""


class WithoutAnswers(WithoutEarlierAnswers):
    """No output insertion, neither earlier answers nor this one: drafts come from the prompt alone.

    An answer's last tokens still say where a draft continues. The store cannot be told to match and not to
    remember, so a request of its own is made for each draft, of the prompt and these few tokens.
    """

    def __init__(self, make_store: MakeStore) -> None:
        super().__init__(make_store)
        self._prompts: dict[RequestId, Int32Array] = {}
        self._answers: dict[RequestId, Int32Array] = {}

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Keep prompts and answers aside."""
        kept = self._prompts if origin is Origin.PROMPT else self._answers
        before = kept.get(request, np.zeros(0, np.int32))
        kept[request] = np.concatenate([before, checked_tokens(token_ids)])

    def propose(
        self, request: RequestId, *, decoding_length: int, branch_length: int, mode: DraftMode
    ) -> DraftTree:
        """Draft from the prompt."""
        context = self._answers.get(request, np.zeros(0, np.int32))[-_CONTEXT_TOKENS:]
        prompt = self._prompts.get(request, np.zeros(0, np.int32))
        now = object()
        self._store.open(now)
        self._store.insert(now, np.concatenate([prompt, context]), Origin.PROMPT)
        try:
            return self._store.propose(
                now, decoding_length=decoding_length, branch_length=branch_length, mode=mode
            )
        finally:
            self._store.forget(now)

    def open(
        self, request: RequestId, *, namespace: str = DEFAULT_NAMESPACE, reads: Sequence[str] = ()
    ) -> None:
        """Wait for the prompt."""

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Recycle nothing: no request is open."""

    def recycled_tokens(self, request: RequestId) -> int:  # noqa: ARG002
        """Return 0."""
        return 0

    def forget(self, request: RequestId) -> None:
        """Drop what was kept aside."""
        self._prompts.pop(request, None)
        self._answers.pop(request, None)


class WithoutElimination(AblatedStore):
    """No branch elimination: prompts stay, for every later request, as answers do."""

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:  # noqa: ARG002
        """Insert a prompt as an answer."""
        super().insert(request, token_ids, Origin.OUTPUT)


ABLATIONS: dict[str, Callable[[MakeStore], DraftStore]] = {
    "without-prompts": WithoutPrompts,
    "without-earlier-answers": WithoutEarlierAnswers,
    "without-answers": WithoutAnswers,
    "without-elimination": WithoutElimination,
}
"""By what is taken out. A trie that is not pruned is one that never reaches its cap: it takes no wrapper."""

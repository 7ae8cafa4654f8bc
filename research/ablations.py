"""Draft stores with one of the method's ideas taken out: the paper's ablation study.

Each wraps a store, so the product needs no switches for them. To add one: write a subclass of `AblatedStore`
with what differs, and add a line to `ABLATIONS`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lookahead.bench.methods.lookahead import LookaheadMethod
from lookahead.bench.methods.registry import MakeMethod
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.noise import NO_NOISE, Noise
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    DraftStore,
    Origin,
    RequestId,
    TokenIds,
    checked_tokens,
)
from lookahead.drafting.tree import DraftTree
from research.bench.variants import log_store, of_fixed_size, trie_store

MakeStore = Callable[[], DraftStore]

_CONTEXT_TOKENS = 8
"""Last tokens of the answer that drafts continue if the answer itself is not inserted."""


class AblatedStore:
    """A draft store that delegates everything to another; its subclasses change one thing.

    Args:
        make_store: Makes the store behind it, a new one each time.
    """

    def __init__(self, make_store: MakeStore) -> None:
        self._make_store = make_store
        self._store = make_store()
        self.recycles = self._store.recycles

    def open(
        self,
        request: RequestId,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        remember: bool = True,
    ) -> None:
        """Open a request."""
        self._store.open(request, namespace=namespace, reads=reads, remember=remember)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence."""
        self._store.insert(request, token_ids, origin)

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
    ) -> DraftTree:
        """Return a draft."""
        return self._store.propose(
            request, decoding_length=decoding_length, branch_length=branch_length, mode=mode, noise=noise
        )

    def recycle(
        self, request: RequestId, token_ids: TokenIds, successors: Int32Array, *, accepted: int = 0
    ) -> None:
        """Recycle the model's most probable successors."""
        self._store.recycle(request, token_ids, successors, accepted=accepted)

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Learn the probable successors of each token of the vocabulary."""
        self._store.learn_vocabulary(successors)

    def sources(self, request: RequestId) -> Int32Array:
        """Return the source of each token of a request that was inserted last."""
        return self._store.sources(request)

    def forget(self, request: RequestId) -> None:
        """Close a request."""
        self._store.forget(request)

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember a text as an answer."""
        self._store.remember(token_ids, namespace)

    def snapshot(self) -> dict[str, Any]:
        """Return copies of the memory that outlives requests."""
        return self._store.snapshot()

    @property
    def nbytes(self) -> int:
        """Bytes of the store behind it."""
        return self._store.nbytes


class WithoutPrompts(AblatedStore):
    """No prompt insertion: only the last token of a prompt is inserted, for drafts to continue."""

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Insert only the last token of a prompt."""
        tokens = checked_tokens(token_ids)
        super().insert(request, tokens[-1:] if origin is Origin.PROMPT else tokens, origin)


class WithoutEarlierAnswers(AblatedStore):
    """No memory outlives a request: requests that are not open at the same time share no store."""

    def __init__(self, make_store: MakeStore) -> None:
        super().__init__(make_store)
        self._open: set[RequestId] = set()

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence; this opens it."""
        super().insert(request, token_ids, origin)
        self._open.add(request)

    def forget(self, request: RequestId) -> None:
        """Close a request, and make a new store when it was the last one open."""
        super().forget(request)
        self._open.discard(request)
        if not self._open:
            self._store = self._make_store()

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember nothing."""


class WithoutAnswers(WithoutEarlierAnswers):
    """No output insertion, neither earlier answers nor the current one: drafts come only from the prompt.

    The answer's last tokens are still matched. A store cannot match tokens without remembering them, so each
    draft opens a request of its own, with the prompt and these few tokens.
    """

    def __init__(self, make_store: MakeStore) -> None:
        super().__init__(make_store)
        self._prompts: dict[RequestId, Int32Array] = {}
        self._answers: dict[RequestId, Int32Array] = {}

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Keep the tokens outside the store."""
        kept = self._prompts if origin is Origin.PROMPT else self._answers
        before = kept.get(request, np.zeros(0, np.int32))
        kept[request] = np.concatenate([before, checked_tokens(token_ids)])

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
    ) -> DraftTree:
        """Draft from the prompt."""
        context = self._answers.get(request, np.zeros(0, np.int32))[-_CONTEXT_TOKENS:]
        prompt = self._prompts.get(request, np.zeros(0, np.int32))
        now = object()
        self._store.open(now)
        self._store.insert(now, np.concatenate([prompt, context]), Origin.PROMPT)
        try:
            return self._store.propose(
                now, decoding_length=decoding_length, branch_length=branch_length, mode=mode, noise=noise
            )
        finally:
            self._store.forget(now)

    def open(
        self,
        request: RequestId,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        remember: bool = True,
    ) -> None:
        """Do nothing until the prompt comes."""

    def recycle(
        self, request: RequestId, token_ids: TokenIds, successors: Int32Array, *, accepted: int = 0
    ) -> None:
        """Recycle nothing, since no request is open."""

    def sources(self, request: RequestId) -> Int32Array:  # noqa: ARG002
        """Return nothing."""
        return np.zeros(0, np.int32)

    def forget(self, request: RequestId) -> None:
        """Drop the request's tokens."""
        self._prompts.pop(request, None)
        self._answers.pop(request, None)


class WithoutElimination(AblatedStore):
    """No branch elimination: prompts stay for later requests, as answers do."""

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:  # noqa: ARG002
        """Insert a prompt as an answer."""
        super().insert(request, token_ids, Origin.OUTPUT)


ABLATIONS: dict[str, Callable[[MakeStore], DraftStore]] = {
    "without-prompts": WithoutPrompts,
    "without-earlier-answers": WithoutEarlierAnswers,
    "without-answers": WithoutAnswers,
    "without-elimination": WithoutElimination,
}
"""By the idea taken out. Pruning needs no wrapper: a trie that never reaches its cap is not pruned."""


class PromptsToo(LookaheadMethod):
    """Lookahead without branch elimination: an interrupted run recalls prompts as it recalls answers."""

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Learn an earlier prompt and its answer."""
        self.remember([*prompt_ids, *answer_ids])


def _ablated(
    store: Callable[[LookaheadConfig], DraftStore], taken_out: str
) -> Callable[[LookaheadConfig], DraftStore]:
    return lambda config: ABLATIONS[taken_out](lambda: store(config))


ABLATED_METHODS: dict[str, MakeMethod] = {
    f"{name}-{taken_out}": of_fixed_size(
        _ablated(store, taken_out),
        method=PromptsToo if taken_out == "without-elimination" else LookaheadMethod,
    )
    for name, store in (("lookahead-trie", trie_store), ("lookahead-log", log_store))
    for taken_out in ABLATIONS
}
"""The ablations as methods of a benchmark, by name."""

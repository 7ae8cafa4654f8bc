"""One request's view of the draft memory, from its prompt to its end."""

from collections.abc import Sequence

import numpy as np

from lookahead.config import LookaheadConfig
from lookahead.drafting.store import DEFAULT_NAMESPACE, DraftStore, Origin
from lookahead.drafting.tree import DraftTree


class RequestDrafter:
    """Streams one request's tokens into a draft store and proposes what may follow.

    Args:
        memory: the store.
        config: how large and how deep drafts are, and how they are laid out.
        namespace: the one the request belongs to.
        reads: further namespaces to draft from.
    """

    def __init__(
        self,
        memory: DraftStore,
        config: LookaheadConfig,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
    ) -> None:
        self._memory = memory
        self._config = config
        self._request = object()
        self._namespace, self._reads = namespace, reads

    def read(self, prompt: list[int]) -> None:
        """Remember the request's prompt until `close`."""
        self._memory.open(self._request, namespace=self._namespace, reads=self._reads)
        self._memory.insert(self._request, np.array(prompt, np.int32), Origin.PROMPT)

    def propose(self, most_levels: int) -> DraftTree:
        """Return a draft after the last token learned, at most `most_levels` deep."""
        return self._memory.propose(
            self._request,
            decoding_length=self._config.decoding_length,
            branch_length=min(self._config.branch_length, most_levels),
            mode=self._config.mode,
        )

    def learn(self, tokens: list[int]) -> None:
        """Remember emitted tokens."""
        self._memory.insert(self._request, tokens, Origin.OUTPUT)

    def close(self) -> None:
        """Forget the prompt, whether the request ended or was aborted."""
        self._memory.forget(self._request)


class NoDrafter:
    """Drafts nothing and remembers nothing: every step is a plain one."""

    def __init__(self) -> None:
        self._last_token = 0

    def read(self, prompt: list[int]) -> None:
        """Do nothing."""

    def propose(self, most_levels: int) -> DraftTree:  # noqa: ARG002
        """Return the last token alone."""
        return DraftTree.root_only(self._last_token)

    def learn(self, tokens: list[int]) -> None:
        """Remember the last token, where the next step begins."""
        self._last_token = tokens[-1]

    def close(self) -> None:
        """Do nothing: there is nothing to forget."""

"""A log's live requests, and the numbers of the namespaces that they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.matches import LONGEST_MATCH, VOCABULARY
from lookahead.drafting.log.ring import GAP, RingBuffer
from lookahead.drafting.log.workspace import WorkspaceBuffers
from lookahead.drafting.store import VOCABULARY_NAMESPACE


class Namespaces:
    """Numbers namespaces in the order of their first use: kernels know owners only by number.

    A number is never used again.

    Attributes:
        owners: The number of each name, the vocabulary's included.
    """

    def __init__(self) -> None:
        self.owners: dict[str, int] = {VOCABULARY_NAMESPACE: VOCABULARY}
        self._next_owner = VOCABULARY + 1

    def owner(self, name: str) -> int:
        """Return the number of a namespace, a new one at its first use."""
        if name not in self.owners:
            self.owners[name] = self._next_owner
            self._next_owner += 1
        return self.owners[name]

    def readable(self, name: str, reads: Sequence[str]) -> Int32Array:
        """Return the numbers that a request of a namespace may read, its own first; ignore unknown names."""
        others = (self.owners.get(other) for other in dict.fromkeys(reads) if other != name)
        return np.array([self.owner(name), *(owner for owner in others if owner is not None)], np.int32)

    def without_vocabulary(self) -> dict[str, int]:
        """Return the number of each namespace that texts belong to."""
        return {name: owner for name, owner in self.owners.items() if name != VOCABULARY_NAMESPACE}


@dataclass(eq=False)
class LiveRequest:
    """What a log knows of a request between `open` and `forget`.

    Attributes:
        owner: The number of its namespace.
        readable: int32, the namespaces that it reads, its own first.
        own: Its own log.
        draft: The workspace with its last draft.
        tail: int32 [LONGEST_MATCH], its last tokens, at the end.
        length: Tokens so far.
        recycled_tokens: How many of them recycled logits had drafted.
        answer: Tokens for the shared log when the request ends, in parts.
    """

    owner: int
    readable: Int32Array
    own: RingBuffer
    draft: WorkspaceBuffers
    tail: Int32Array = field(default_factory=lambda: np.full(LONGEST_MATCH, GAP, np.int32))
    length: int = 0
    recycled_tokens: int = 0
    answer: list[Int32Array] = field(default_factory=list)

"""What a memory learned by itself, for the memories of other replicas: each text once, and none sent back.

Merging whole snapshots again and again would repeat all texts. A journal numbers the texts that a memory
learned from its own requests; an update has those since a number, and a memory takes each text of another one
once.

    replica A learns   0 1 2 3        A.updates(since=2) -> texts 2, 3 of A
    replica B takes    A: 0 1         B.apply(update)    -> remembers 2 and 3, notes "A: up to 4"
                                      B.apply(update)    -> nothing, it has them
                                      B.updates()        -> texts of B alone
"""

import uuid
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.token_log import TokenLog

MAX_JOURNAL_TOKENS = 2**20
"""Texts beyond are forgotten, the oldest first: a replica that asks so late misses them."""
MAX_JOURNAL_TEXTS = 2**16
MAX_SOURCES = 2**12
"""Memories, dead ones included, whose texts are known to have been taken."""


class LearnedText(NamedTuple):
    """An answer, another text that a memory was told to remember, or the word to forget a namespace.

    Attributes:
        namespace: Whose it is.
        tokens: int32, its tokens.
        is_forgotten: Whether all that the namespace held before is to be forgotten; there are no tokens then.
    """

    namespace: str
    tokens: Int32Array
    is_forgotten: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryUpdate:
    """Texts that one memory learned, in order.

    Attributes:
        source: The memory that learned them.
        begin: The number of the first one.
        texts: The texts.
        vocabulary_size: Of the memory's model; None if it has served none.
        tokenizer: Fingerprint of its tokenizer; None if it was never given one.
    """

    source: str
    begin: int
    texts: tuple[LearnedText, ...]
    vocabulary_size: int | None = None
    tokenizer: str | None = None

    @property
    def end(self) -> int:
        """The number after the last text: where the next update begins."""
        return self.begin + len(self.texts)

    @property
    def tokens(self) -> int:
        """The tokens of all texts."""
        return sum(len(text.tokens) for text in self.texts)

    @property
    def forgotten(self) -> frozenset[str]:
        """The namespaces that it says to forget."""
        return frozenset(text.namespace for text in self.texts if text.is_forgotten)

    def without(self, namespaces: Collection[str]) -> "MemoryUpdate":
        """Return the update with the texts of some namespaces empty; their numbers stay."""
        texts = [
            text._replace(tokens=text.tokens[:0]) if text.namespace in namespaces else text
            for text in self.texts
        ]
        return replace(self, texts=tuple(texts))


@dataclass
class Journal:
    """The newest texts that a memory learned by itself, numbered.

    Attributes:
        source: A name that no other memory has.
        end: The number that the next text gets.
        taken: By source, the number after the last text that was taken from it.
    """

    source: str = field(default_factory=lambda: uuid.uuid4().hex)
    end: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    _texts: deque[LearnedText] = field(default_factory=deque)
    _tokens: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def known(self) -> dict[str, int]:
        """By memory, this one included, the number after the last text that was learned from it."""
        own = {self.source: self.end} if self.end else {}
        return self.taken | own

    def note(self, namespace: str, tokens: Int32Array) -> None:
        """Note a text that was learned."""
        with self._lock:
            self._add(LearnedText(namespace, tokens))

    def since(self, number: int) -> tuple[int, tuple[LearnedText, ...]]:
        """Return the texts from a number on that are still noted, and the number of the first of them."""
        with self._lock:
            begin = self.end - len(self._texts)
            first = min(max(number, begin), self.end)
            return first, tuple(self._texts)[first - begin :]

    def forget(self, namespace: str, *, tells_others: bool) -> None:
        """Leave nothing of a namespace's texts but their numbers.

        Args:
            namespace: The namespace.
            tells_others: Whether the memories that take this one's updates forget it, too.
        """
        with self._lock:
            for place, text in enumerate(self._texts):
                if text.namespace == namespace and len(text.tokens):
                    self._tokens -= len(text.tokens)
                    self._texts[place] = LearnedText(namespace, text.tokens[:0])
            if tells_others:
                self._add(LearnedText(namespace, np.zeros(0, np.int32), is_forgotten=True))

    def new_texts(self, update: MemoryUpdate) -> tuple[LearnedText, ...]:
        """Return the texts of another memory's update that were not taken yet, and note them as taken."""
        if update.source == self.source:
            return ()
        known = self.taken.get(update.source, 0)
        if update.end > known:
            self.taken.pop(update.source, None)
            self.taken[update.source] = update.end  # the last one, since it is the newest
        while len(self.taken) > MAX_SOURCES:
            del self.taken[next(iter(self.taken))]
        return update.texts[max(0, known - update.begin) :]

    def _add(self, text: LearnedText) -> None:
        self._texts.append(text)
        self._tokens += len(text.tokens)
        self.end += 1
        while self._tokens > MAX_JOURNAL_TOKENS or len(self._texts) > MAX_JOURNAL_TEXTS:
            self._tokens -= len(self._texts.popleft().tokens)


def take_texts(log: TokenLog, journal: Journal, texts: Sequence[LearnedText]) -> None:
    """Let a log learn the texts of another memory, and forget what that one has forgotten, in their order."""
    for text in texts:
        if text.is_forgotten:
            log.forget_namespace(text.namespace)
            journal.forget(text.namespace, tells_others=False)
        else:
            log.remember(text.tokens, text.namespace, is_own=False)

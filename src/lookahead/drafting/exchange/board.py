"""`UpdateBoard`: the newest updates of all replicas, in the order in which they were published.

The board stands in one process, such as an actor; the replicas read from where they stopped.

    publish   A: 0-2   B: 0-1   A: 2-5          since(0) -> 3, [A: 0-2, B: 0-1, A: 2-5]
    number      0        1        2             since(2) -> 3, [A: 2-5]
"""

from collections import deque

from lookahead.drafting.memory.journal import MAX_JOURNAL_TEXTS, MAX_JOURNAL_TOKENS, MemoryUpdate


class UpdateBoard:
    """Holds updates until there are too many tokens; then the oldest are dropped.

    Args:
        max_tokens: The most tokens of all updates together.
    """

    def __init__(self, max_tokens: int = MAX_JOURNAL_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._updates: deque[MemoryUpdate] = deque()
        self._tokens = 0
        self._end = 0

    def publish(self, update: MemoryUpdate) -> int:
        """Add an update; return the number that the next one gets.

        What the update forgets is dropped from all updates before it.
        """
        if update.forgotten:
            self._updates = deque(held.without(update.forgotten) for held in self._updates)
            self._tokens = sum(held.tokens for held in self._updates)
        self._updates.append(update)
        self._tokens += update.tokens
        self._end += 1
        while self._tokens > self._max_tokens or len(self._updates) > MAX_JOURNAL_TEXTS:
            self._tokens -= self._updates.popleft().tokens
        return self._end

    def since(self, number: int, source: str | None = None) -> tuple[int, list[MemoryUpdate]]:
        """Return the number of the next update, and those from a number on that are still held.

        Args:
            number: What the last call returned; 0 for all.
            source: Leave out what this memory published.
        """
        begin = self._end - len(self._updates)
        held = list(self._updates)[max(0, number - begin) :]
        return self._end, [update for update in held if update.source != source]

"""The replicas of a simulated fleet, and the board through which they exchange what they learned.

Decoding is lossless: what a replica answers does not depend on its drafts. So only the replicas that are
watched need memories. Of all others it is enough to know what they learned; they publish it from a journal.
"""

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.drafters import _REQUEST as REPLAYED_REQUEST
from lookahead.bench.replay.drafters import StoreDrafter
from lookahead.bench.replay.replay import Tally, replay
from lookahead.config import LookaheadConfig
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.exchange.replica import Replica
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.journal import Journal, MemoryUpdate
from lookahead.drafting.store import DEFAULT_NAMESPACE

_FILE_BYTES = 376
_TEXT_BYTES = 15  # its length, whether it is forgotten, and what is around its namespace's name


def update_bytes(update: MemoryUpdate) -> int:
    """Return the bytes of an update as `exchange/files.py` writes it, to within a few."""
    names = sum(len(text.namespace) for text in update.texts)
    return _FILE_BYTES + 4 * update.tokens + _TEXT_BYTES * len(update.texts) + names


class BoardExchange:
    """One replica's way to all others through a board in the simulation's process; it counts what it carries.

    What is received at once is handed over as one update: `DraftMemory.apply` counts the whole memory anew
    for each one, which takes longer than learning its texts.

    Args:
        board: The board of all replicas.
        source: The memory that publishes.

    Attributes:
        sent_bytes: Bytes of what was published.
        received_bytes: Bytes of what was received.
        offered: Updates that were published by all since the last call, over all calls.
        lost: Those of them that the board held no longer.
    """

    def __init__(self, board: UpdateBoard, source: str) -> None:
        self._board, self._source = board, source
        self._seen, self._taken = 0, 0
        self.sent_bytes, self.received_bytes = 0, 0
        self.offered, self.lost = 0, 0

    def publish(self, update: MemoryUpdate) -> None:
        """Put an update on the board."""
        self.sent_bytes += update_bytes(update)
        self._board.publish(update)

    def receive(self) -> list[MemoryUpdate]:
        """Return what others published since the last call, in one update."""
        end, held = self._board.since(self._seen)
        self.offered += end - self._seen
        self.lost += end - self._seen - len(held)
        self._seen = end
        others = [update for update in held if update.source != self._source]
        if not others:
            return []
        self.received_bytes += sum(map(update_bytes, others))
        texts = tuple(text for update in others for text in update.texts)
        received = MemoryUpdate(source=f"board of {self._source}", begin=self._taken, texts=texts)
        self._taken = received.end
        return [received]


class TenantDrafter(StoreDrafter):
    """A memory, replayed in the namespace of a tenant.

    Args:
        memory: The memory.
        config: Branch length and draft mode.

    Attributes:
        namespace: That of the next request.
    """

    def __init__(self, memory: DraftMemory, config: LookaheadConfig) -> None:
        super().__init__(memory.store, config)
        self.calibrated = False  # whether its probabilities are true is not asked here, and takes time
        self.namespace = DEFAULT_NAMESPACE

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request in the tenant's namespace."""
        self._store.open(REPLAYED_REQUEST, namespace=self.namespace)
        super().begin(prompt_ids)

    def learn_whole(self, trace: Trace) -> None:
        """Learn an answer and its successors as a replay does, without drafts."""
        self.begin(trace.prompt_ids[-1:])
        try:
            self.learn(trace.output_ids)
            if trace.successor_ids.size:
                before = np.concatenate([trace.prompt_ids[-1:], trace.output_ids[:-1]])
                self.recycle(before, trace.successor_ids[-len(before) :])
        finally:
            self.end()


class WatchedReplica:
    """A replica with a memory.

    Args:
        board: The board of all replicas; None if they exchange nothing.
        memory_bytes: Hard cap of the memory.
        draft_tokens: Maximum number of draft tokens, without the current one.

    Attributes:
        memory: What it has learned and taken.
        way: Its way to the others; None if there is none.
    """

    def __init__(self, board: UpdateBoard | None, *, memory_bytes: int, draft_tokens: int) -> None:
        self.memory = DraftMemory(max_bytes=memory_bytes)
        self._drafter = TenantDrafter(self.memory, LookaheadConfig())
        self._draft_tokens = draft_tokens
        self.way = None if board is None else BoardExchange(board, self.memory.updates().source)
        self._replica = None if self.way is None else Replica(self.memory, self.way)

    def measure(self, trace: Trace, namespace: str) -> Tally:
        """Serve a request with drafts; return its tokens and forward passes."""
        self._drafter.namespace = namespace
        return replay(self._drafter, [trace], draft_tokens=self._draft_tokens).overall

    def learn(self, trace: Trace, namespace: str) -> None:
        """Serve a request, and count nothing."""
        self._drafter.namespace = namespace
        self._drafter.learn_whole(trace)

    def exchange(self) -> None:
        """Receive, then publish."""
        if self._replica is not None:
            self._replica.exchange()


class SendingReplica:
    """A replica of which only what it learned is known.

    Args:
        board: The board of all replicas.

    Attributes:
        way: Its way to the others.
    """

    def __init__(self, board: UpdateBoard) -> None:
        self._journal = Journal()
        self._published = 0
        self.way = BoardExchange(board, self._journal.source)

    def learn(self, answer: Int32Array, namespace: str) -> None:
        """Serve a request."""
        self._journal.note(namespace, answer)

    def exchange(self) -> None:
        """Publish what it learned since the last time."""
        begin, texts = self._journal.since(self._published)
        if texts:
            update = MemoryUpdate(source=self._journal.source, begin=begin, texts=texts)
            self.way.publish(update)
            self._published = update.end

"""`Replica`: a memory that takes part in an exchange, and a file that it is saved to, in the background."""

import logging
from threading import Event, Lock, Thread

from lookahead.drafting.exchange.exchange import Exchange
from lookahead.drafting.memory.background import every
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.journal import MemoryUpdate
from lookahead.errors import LookaheadError

_log = logging.getLogger("lookahead.exchange")


class Replica:
    """Exchanges what a memory learned with other replicas, now and then.

    Args:
        memory: The memory; what it learns from now on is published.
        exchange: The way to the others.
        every_s: Seconds between two exchanges.
    """

    def __init__(self, memory: DraftMemory, exchange: Exchange, *, every_s: float = 1.0) -> None:
        self._memory, self._exchange, self._every_s = memory, exchange, every_s
        self._published = memory.updates().end
        self._forgotten: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._lock = Lock()  # one exchange at a time
        self._ends = Event()
        self._thread = Thread(target=self._run, name="lookahead-exchange", daemon=True)

    def start(self) -> None:
        """Begin to exchange in the background."""
        self._thread.start()

    def exchange(self) -> int:
        """Exchange now; return how many tokens were taken from others.

        What others published comes first, so that what they have forgotten is not published again.
        An update that the memory refuses (it is of another vocabulary) is left out, and logged.

        Raises:
            LookaheadError: The others cannot be reached.
            OSError: Likewise.
        """
        with self._lock:
            received = self._exchange.receive()
            # What was published before this memory's word to forget a namespace is not learned after it.
            # The last exchange counts, too: others may have published while it went on.
            forgotten = self._forgotten | self._memory.updates(self._published).forgotten
            taken = sum(self._applied(update.without(forgotten)) for update in received)
            update = self._memory.updates(self._published)
            if update.texts:
                self._exchange.publish(update)
                self._published = update.end
            self._forgotten = update.forgotten
            return taken

    def close(self) -> None:
        """Exchange for the last time and end.

        Raises:
            LookaheadError: The others cannot be reached.
            OSError: Likewise.
        """
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()
        self.exchange()

    def _applied(self, update: MemoryUpdate) -> int:
        try:
            return self._memory.apply(update)
        except LookaheadError as error:
            if update.source not in self._refused:
                self._refused.add(update.source)
                _log.error("updates of the memory %s are left out: %s", update.source, error)
            return 0

    def _run(self) -> None:
        every(self._every_s, self.exchange, self._ends, fault="the memory cannot be exchanged")

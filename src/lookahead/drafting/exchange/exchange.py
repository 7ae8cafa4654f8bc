"""`Exchange`: how the updates of one memory reach those of other replicas."""

from collections.abc import Sequence
from typing import Protocol

from lookahead.drafting.memory.journal import MemoryUpdate


class Exchange(Protocol):
    """One replica's way to all others. It is used by one thread."""

    def publish(self, update: MemoryUpdate) -> None:
        """Let all other replicas receive an update.

        Raises:
            LookaheadError: It cannot be published; it may be tried again.
            OSError: Likewise.
        """

    def receive(self) -> Sequence[MemoryUpdate]:
        """Return what others published since the last call, in the order in which it was published.

        Raises:
            LookaheadError: Nothing can be received; it may be tried again.
            OSError: Likewise.
        """

"""`NamedBoard`: an `UpdateBoard` whose readers notice that it was lost and begun anew."""

import uuid

from lookahead.drafting.exchange.board import UpdateBoard
from lookahead.drafting.memory.journal import MemoryUpdate


class NamedBoard:
    """What the actor of an exchange holds.

    An actor that is restarted has an empty board, whose numbers begin at 0 again. Each board has a name of
    its own, so that a reader does not take the numbers of one board for those of another.
    """

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._board = UpdateBoard()

    def publish(self, name: str | None, update: MemoryUpdate) -> bool:
        """Add an update; return whether it was added.

        Args:
            name: The board that its publisher has read; None for any. On another one, the update would leave
                a gap behind what the lost board held.
            update: The update.
        """
        if name not in (None, self._name):
            return False
        self._board.publish(update)
        return True

    def since(self, name: str | None, number: int, source: str) -> tuple[str, int, list[MemoryUpdate]]:
        """Return this board's name, the number of the next update, and the updates from a number on.

        Args:
            name: The board that the number belongs to; for another one, all updates are returned.
            number: What the last call returned.
            source: Leave out what this memory published.
        """
        end, updates = self._board.since(number if name == self._name else 0, source)
        return self._name, end, updates

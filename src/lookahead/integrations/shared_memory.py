"""`open_memory`: a replica's memory, loaded at the start, saved and exchanged in the background."""

import logging
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Self

from lookahead.drafting.exchange.exchange import Exchange
from lookahead.drafting.exchange.files import FileExchange
from lookahead.drafting.exchange.replica import Replica
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.memory_file import MemoryFile
from lookahead.errors import LookaheadError
from lookahead.integrations.options import IntegrationOptions

_log = logging.getLogger("lookahead.integrations")


class ReplicaMemory:
    """A memory with its file and its exchange; both are closed when the process ends.

    Args:
        memory: The memory.
        file: Saves it.
        replica: Exchanges it; None where there are no others.

    Attributes:
        memory: The memory.
        before_close: Called before the memory is saved for the last time.
    """

    def __init__(self, memory: DraftMemory, file: MemoryFile, replica: Replica | None) -> None:
        self.memory = memory
        self.before_close: Callable[[], None] = lambda: None
        self._file, self._replica = file, replica
        # An engine's worker is a process of multiprocessing, which may end without running atexit.
        self._at_exit = Finalize(None, self._close, exitpriority=100)

    def start(self) -> Self:
        """Begin to save and to exchange in the background."""
        self._file.start()
        if self._replica is not None:
            self._replica.start()
        return self

    def close(self) -> None:
        """Exchange and save for the last time; faults are logged. A second call does nothing."""
        self._at_exit()

    def _close(self) -> None:
        self.before_close()
        for part in (self._replica, self._file):
            try:
                if part is not None:
                    part.close()
            except (LookaheadError, OSError) as error:
                _log.error("at the end: %s", error)


def open_memory(
    options: IntegrationOptions, *, vocabulary_size: int | None = None, exchange: Exchange | None = None
) -> ReplicaMemory:
    """Return the memory that options describe, started.

    Args:
        options: The options.
        vocabulary_size: The model's; a file of another one is refused.
        exchange: The way to other replicas; None for the options' folder, if there is one.

    Raises:
        MemoryFileError: The file is damaged, or of another vocabulary.
        ConfigError: The exchange folder does not exist.
    """
    path = None if options.memory_file is None else Path(options.memory_file)
    if path is not None and path.exists():
        memory = DraftMemory.load(path, vocabulary_size=vocabulary_size, max_bytes=options.max_bytes)
    else:
        memory = DraftMemory(max_bytes=options.max_bytes)
        memory.bind(vocabulary_size=vocabulary_size)
    if exchange is None and options.exchange_folder is not None:
        exchange = FileExchange(options.exchange_folder)
    replica = None
    if exchange is not None:
        replica = Replica(memory, exchange, every_s=options.exchange_every_s)
        with suppress(LookaheadError, OSError):  # it is tried again, and logged, in the background
            replica.exchange()
    file = MemoryFile(memory, path, None, every_s=options.save_every_s)
    return ReplicaMemory(memory, file, replica).start()

"""`MemoryFile`: saves the draft memory now and then, and at the end."""

from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from lookahead.drafting.memory.background import every
from lookahead.drafting.memory.draft_memory import DraftMemory


class MemoryFile:
    """Saves a memory to a file in the background; what was there before stays until all is written.

    Args:
        memory: The memory.
        path: The file; None to save nothing.
        tokenizer: The model's tokenizer, which is noted in the file.
        every_s: Seconds between two saves; 0 to save only when asked.
    """

    def __init__(self, memory: DraftMemory, path: Path | None, tokenizer: Any, *, every_s: float) -> None:
        self._memory, self._path, self._tokenizer, self._every_s = memory, path, tokenizer, every_s
        self._ends = Event()
        self._lock = Lock()  # one save at a time
        self._thread = Thread(target=self._run, name="lookahead-memory", daemon=True)

    def start(self) -> None:
        """Begin to save in the background, if there is a file."""
        if self._path is not None and self._every_s > 0:
            self._thread.start()

    def save(self) -> bool:
        """Save now; return whether there is a file.

        Raises:
            LookaheadError: The file cannot be written.
        """
        if self._path is None:
            return False
        with self._lock:
            self._memory.save(self._path, tokenizer=self._tokenizer)
        return True

    def close(self) -> None:
        """Save for the last time and end.

        Raises:
            LookaheadError: The file cannot be written.
        """
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()
        self.save()

    def _run(self) -> None:
        every(self._every_s, self.save, self._ends, fault="the memory cannot be saved")

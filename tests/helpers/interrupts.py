"""Ctrl-C at any line of Python that a call runs: one `KeyboardInterrupt`, as a signal raises it."""

import sys
from collections.abc import Callable
from pathlib import Path

import lookahead

OWN_FOLDER = str(Path(lookahead.__file__).parent)
_INNER = (OWN_FOLDER, "contextlib.py", "threading.py")


class Interrupt:
    """Raises `KeyboardInterrupt` at the n-th line that runs in our code, or in any code.

    Args:
        at: n; None only counts.
        anywhere: Whether lines of all modules count, not only ours.
    """

    def __init__(self, at: int | None, *, anywhere: bool = False) -> None:
        self._at = at
        self._anywhere = anywhere
        self.lines = 0

    def run(self, call: Callable[[], object]) -> bool:
        """Call; return whether the interrupt came."""
        sys.settrace(self._enter)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    def _enter(self, frame, _event, _argument):
        path = frame.f_code.co_filename
        return self._line if self._anywhere or any(part in path for part in _INNER) else None

    def _line(self, _frame, event, _argument):
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line

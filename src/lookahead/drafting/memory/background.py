"""Work that a thread does now and then."""

import logging
import time
from collections.abc import Callable
from threading import Event

from lookahead.errors import LookaheadError

_log = logging.getLogger("lookahead.memory")
_SILENT_S = 60.0
"""The same fault is not logged again for so long."""


def every(seconds: float, work: Callable[[], object], ends: Event, *, fault: str) -> None:
    """Do some work every so many seconds until an event is set; after a fault it is tried again.

    Args:
        seconds: Between two times.
        work: What to do.
        ends: Ends it.
        fault: What is logged before the reason of a fault.
    """
    logged = -_SILENT_S
    while not ends.wait(seconds):
        try:
            work()
        except (LookaheadError, OSError) as error:
            if time.monotonic() - logged >= _SILENT_S:
                logged = time.monotonic()
                _log.error("%s: %s", fault, error)

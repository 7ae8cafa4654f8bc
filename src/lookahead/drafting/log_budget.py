"""How large a log's parts may be in a given number of bytes."""

from collections.abc import Callable

from lookahead.drafting.log_ring import SMALLEST_RING, ring_bytes
from lookahead.drafting.successors import SMALLEST_TABLE, table_bytes


def affordable_tokens(budget: int) -> int:
    """Return the largest power of two of tokens whose ring fits `budget` bytes; 0 where none does."""
    return _largest(SMALLEST_RING, budget, ring_bytes)


def affordable_places(budget: int) -> int:
    """Return the largest power of two of places whose table of successors fits `budget` bytes; 0 if none."""
    return _largest(SMALLEST_TABLE, budget, table_bytes)


def _largest(smallest: int, budget: int, bytes_of: Callable[[int], int]) -> int:
    size = smallest
    if bytes_of(size) > budget:
        return 0
    while bytes_of(2 * size) <= budget:
        size *= 2
    return size

"""How a log's bytes are divided among its parts."""

from collections.abc import Callable
from typing import NamedTuple

from lookahead.drafting.log.ring import SMALLEST_RING, ring_bytes
from lookahead.drafting.log.successors import SMALLEST_TABLE, table_bytes
from lookahead.errors import ConfigError

_MIN_NAMES, _MAX_NAMES = 2304, 2**24


class Parts(NamedTuple):
    """How large the parts of a log may be.

    Attributes:
        names_bytes: Bytes of the names of namespaces.
        own_bytes: Bytes of the logs of live requests.
        shared_tokens: Tokens of the shared log.
        table_buckets: Buckets of the table of successors.
    """

    names_bytes: int
    own_bytes: int
    shared_tokens: int
    table_buckets: int


def divided(max_bytes: int, *, learned_bytes: int) -> Parts:
    """Divide a memory: half for the shared log, the rest in equal parts for live requests and the table.

    The shared log gets half of the whole, so that a power of two of bytes holds a power of two of tokens. It
    gets less where the half would leave no room for the others. A sixteenth of the whole is for the names of
    namespaces, but at most 16 MiB: a file has room for no more.

    Args:
        max_bytes: The cap.
        learned_bytes: Bytes of the calibration state.

    Raises:
        ConfigError: The cap leaves no room.
    """
    min_rest = max(2 * ring_bytes(SMALLEST_RING), table_bytes(SMALLEST_TABLE))
    names = names_bytes(max_bytes)
    min_bytes = learned_bytes + _MIN_NAMES + 4 * min_rest
    if max_bytes < min_bytes:
        message = f"max_bytes={max_bytes} leaves no room for a log; give at least {min_bytes}"
        raise ConfigError(message)
    divisible = max_bytes - learned_bytes - names
    shared_tokens = affordable_tokens(min(max_bytes // 2 + ring_bytes(0), divisible - 2 * min_rest))
    rest = (divisible - ring_bytes(shared_tokens)) // 2
    return Parts(names, rest, shared_tokens, affordable_buckets(rest))


def names_bytes(max_bytes: int) -> int:
    """Return how many bytes of a memory are for the names of namespaces."""
    return min(max(max_bytes // 16, _MIN_NAMES), _MAX_NAMES)


def affordable_tokens(budget: int) -> int:
    """Return the largest power of two of tokens whose ring fits `budget` bytes; 0 if none does."""
    return _largest(SMALLEST_RING, budget, ring_bytes)


def affordable_buckets(budget: int) -> int:
    """Return the largest power of two of buckets whose table fits `budget` bytes; 0 if none does."""
    return _largest(SMALLEST_TABLE, budget, table_bytes)


def _largest(smallest: int, budget: int, bytes_of: Callable[[int], int]) -> int:
    size = smallest
    if bytes_of(size) > budget:
        return 0
    while bytes_of(2 * size) <= budget:
        size *= 2
    return size

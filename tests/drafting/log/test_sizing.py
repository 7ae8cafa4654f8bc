"""Every memory that is allowed has room for each of its parts."""

import numpy as np
import pytest

from lookahead.config import MIN_MEMORY_BYTES
from lookahead.drafting.log.requests import bytes_of
from lookahead.drafting.log.ring import SMALLEST_RING, ring_bytes
from lookahead.drafting.log.sizing import divided
from lookahead.drafting.log.successors import SMALLEST_TABLE, table_bytes
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import MAX_NAMESPACE_BYTES, Origin


@pytest.mark.parametrize("learned_bytes", [0, 3000, 11184])
def test_every_part_has_room_in_every_memory(learned_bytes):
    for max_bytes in [*range(MIN_MEMORY_BYTES, 2**18, 999), 2**18, 2**20, 2**28]:
        names_bytes, own_bytes, shared_tokens, buckets = divided(max_bytes, learned_bytes=learned_bytes)
        assert names_bytes >= 3 * bytes_of("n" * MAX_NAMESPACE_BYTES)
        assert own_bytes >= 2 * ring_bytes(SMALLEST_RING)
        assert shared_tokens >= SMALLEST_RING
        assert buckets >= SMALLEST_TABLE
        total = learned_bytes + names_bytes + own_bytes + ring_bytes(shared_tokens) + table_bytes(buckets)
        assert total <= max_bytes


def test_a_power_of_two_of_bytes_holds_one_of_tokens():
    for exponent in (16, 18, 20):
        assert divided(2**exponent, learned_bytes=11184).shared_tokens == 2 ** (exponent - 6)


def test_the_smallest_memory_recycles_the_models_logits():
    log = TokenLog(max_bytes=MIN_MEMORY_BYTES)
    tokens = np.arange(500, dtype=np.int32)
    log.insert("a", tokens, Origin.PROMPT)
    log.recycle("a", tokens, np.stack([tokens + 1, tokens + 2], axis=1))
    assert log.nbytes <= MIN_MEMORY_BYTES

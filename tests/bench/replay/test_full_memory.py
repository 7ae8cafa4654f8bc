"""What a memory is filled with, and the bytes per token of a full one."""

from itertools import islice, pairwise

import numpy as np
import pytest

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.drafters import REPLAYED
from lookahead.bench.replay.full_memory import BLOCK_TOKENS, disguised, filled_drafter, memory_blocks


def trace(output):
    return Trace(
        trace_id=0,
        category="qa",
        prompt_ids=np.array([1, 2], np.int32),
        output_ids=np.array(output, np.int32),
        successor_ids=np.zeros((len(output), 0), np.int32),
    )


def test_a_disguise_is_another_text_with_the_same_repetition():
    rng = np.random.default_rng(0)
    tokens = np.concatenate([np.repeat(np.arange(256), 9), rng.integers(256, 2000, 3000)]).astype(np.int32)
    other = disguised(tokens, rng)
    assert (other[: 256 * 9] == tokens[: 256 * 9]).all()  # the most frequent stay themselves
    assert (other[256 * 9 :] == tokens[256 * 9 :]).mean() < 0.01
    same = tokens[1000:1200, None] == tokens[1000:1200]
    assert ((other[1000:1200, None] == other[1000:1200]) == same).all()


def test_memory_blocks_are_full_and_never_the_same():
    blocks = list(islice(memory_blocks([trace(range(1000, 3000))], seed=0), 3))
    assert all(len(block) == BLOCK_TOKENS for block in blocks)
    assert all((one != other).any() for one, other in pairwise(blocks))


@pytest.mark.parametrize("name", ["log", "trie"])
def test_a_full_store_reports_its_bytes_per_token(name):
    drafter, bytes_per_token = filled_drafter(REPLAYED[name], [trace([*range(30)] * 2)], 9000)
    assert 4 < bytes_per_token <= drafter.nbytes / 9000

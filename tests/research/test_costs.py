"""What drafting costs with a full memory."""

import numpy as np
import pytest

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.full_memory import BLOCK_TOKENS
from research.peers.peer import chain_tree
from research.replay.costs import measure_costs
from research.replay.drafters import REPLAYED, SIZED


def trace(output, successors=0):
    tokens = np.array(output, np.int32)
    return Trace(
        trace_id=0,
        category="qa",
        prompt_ids=np.array([1, 2], np.int32),
        output_ids=tokens,
        successor_ids=np.repeat(tokens[:, None], successors, axis=1),
    )


class Counting:
    """Takes a byte for every token, and drafts nothing."""

    calibrated = False
    nbytes = 0
    log = ()

    def begin(self, prompt_ids):
        self.log = [*self.log, ("begin", len(prompt_ids))]

    def learn(self, token_ids):
        self.nbytes += len(token_ids)
        self.log.append(("learn", len(token_ids)))

    def propose(self, draft_tokens, _):
        self.log.append(("propose", draft_tokens))
        return chain_tree(0, np.zeros(0, np.int32))

    def recycle(self, token_ids, successors):
        self.log.append(("recycle", token_ids.tolist(), successors.tolist()))

    def end(self):
        pass


def test_every_store_is_filled_then_streams_three_tokens_and_drafts_at_each_size():
    made = []
    makers = {"counting": lambda _: made.append(Counting()) or made[0]}
    rows = measure_costs(
        makers, [trace(range(100)), trace(range(11), successors=1)], [4, 2], memory_tokens=5000
    )
    assert [(row["draft_tokens"], row["bytes_per_token"]) for row in rows] == [(4, 1.0), (2, 1.0)]
    log = made[0].log
    assert log[:4] == [("begin", 1), ("learn", 100), ("begin", 1), ("learn", BLOCK_TOKENS)]
    steps = log[log.index(("begin", 2)) :]
    assert steps[:4] == [("begin", 2), ("learn", 1), ("learn", 3), ("recycle", [0, 1, 2], [[1], [2], [3]])]
    assert steps.count(("learn", 3)) == 3
    assert steps.count(("propose", 4)) == steps.count(("propose", 2)) == 3


@pytest.mark.parametrize("name", sorted(SIZED))
def test_stores_can_be_measured(name):
    if name.startswith("arctic"):
        pytest.importorskip("arctic_inference")
    (row,) = measure_costs({name: REPLAYED[name]}, [trace([*range(30)] * 2)], [8], memory_tokens=9000)
    assert row["store"] == name
    assert row["bytes_per_token"] > 4
    assert row["propose_us_p99"] >= row["propose_us_p50"] > 0
    assert row["streaming_insert_us_p99"] >= row["streaming_insert_us_p50"] > 0
    assert row["bulk_insert_us_per_token"] > 0

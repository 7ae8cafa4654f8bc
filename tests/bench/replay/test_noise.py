"""Sampled answers are replayed with the noise that they were drawn with."""

import numpy as np
import pytest
import torch

from lookahead import LookaheadConfig
from lookahead.bench.data.traces import Trace, read_traces
from lookahead.bench.replay.drafters import REPLAYED
from lookahead.bench.replay.known_noise import KnownNoise
from lookahead.bench.replay.replay import replay
from lookahead.errors import DataFormatError

VOCABULARY = 300


def sampled_trace(seed):
    """Tokens that the noise alone decides: all are equally probable."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.empty(1, VOCABULARY).exponential_(1, generator=generator) for _ in range(40)]
    return Trace(
        trace_id=seed,
        category="qa",
        prompt_ids=np.arange(5, dtype=np.int32),
        output_ids=np.array([int(drawn.argmin()) for drawn in noise], np.int32),
        successor_ids=np.zeros((40, 0), np.int32),
        seed=seed,
        vocabulary_size=VOCABULARY,
    )


def test_with_their_noise_more_is_accepted_with_anothers_no_more_than_with_none():
    traces = [sampled_trace(seed) for seed in range(6)]
    tokens = {}
    for known in KnownNoise:
        drafter = REPLAYED["log"](LookaheadConfig())
        result = replay(drafter, traces, draft_tokens=16, known_noise=known)
        tokens[known] = result.overall.mean_acceptance_length
        assert (len(result.foresee_s) > 0) == (known is not KnownNoise.NONE)
    assert tokens[KnownNoise.OWN] > 1.3 * tokens[KnownNoise.NONE]
    assert tokens[KnownNoise.OTHER] < 1.15 * tokens[KnownNoise.NONE]


def test_seeds_are_read_and_checked(tmp_path):
    line = '{{"id": 1, "category": "qa", "prompt_ids": [5], "output_ids": [7], '
    line += '"seed": {}, "vocabulary_size": 9}}'
    file = tmp_path / "traces.jsonl"
    file.write_text(line.format(3))
    (trace,) = read_traces(file)
    assert (trace.seed, trace.vocabulary_size) == (3, 9)
    file.write_text(line.format('"three"'))
    with pytest.raises(DataFormatError, match="'seed' must be an integer"):
        read_traces(file)

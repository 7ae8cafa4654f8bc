"""Fill a draft memory with text, to measure what it takes when it is full.

The text is first the answers of every second trace, then disguised copies of all answers. A copy permutes the
vocabulary, so it is another text with the same repetition. The 256 most frequent tokens keep their ids, as
"the" and commas occur in any text: they are as frequent in a memory of a million tokens as they would be.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.replay import ReplayedDrafter
from lookahead.config import LookaheadConfig
from lookahead.drafting.arrays import Int32Array

BLOCK_TOKENS = 4096
"""Tokens that are inserted at once, as one answer."""

_MIN_BYTES = 2**26
_MAX_BYTES_PER_TOKEN = 2**10  # enough that no store drops a token
_UNDISGUISED = 256


def filled_drafter(
    make: Callable[[LookaheadConfig], ReplayedDrafter], traces: Sequence[Trace], memory_tokens: int
) -> tuple[ReplayedDrafter, float | None]:
    """Return a drafter with a full memory, and the bytes per token at its fullest, all tables included.

    Fullest is just before an array grows: the smallest ratio over the second half of the insertions. None if
    the drafter does not report its bytes.

    Args:
        make: Makes the drafter with the given limits.
        traces: At least one recorded answer.
        memory_tokens: Number of tokens to insert, rounded up to whole blocks.
    """
    max_bytes = _MIN_BYTES + _MAX_BYTES_PER_TOKEN * memory_tokens
    drafter = make(LookaheadConfig(max_bytes=max_bytes))
    known = np.concatenate([trace.output_ids for trace in traces[0::2]])
    held, bytes_per_token = 0, None
    for block in chain([known], memory_blocks(traces, seed=0)):
        drafter.begin(block[:1])
        drafter.learn(block)
        drafter.end()
        held += len(block)
        nbytes = drafter.nbytes if 2 * held >= memory_tokens else None
        if nbytes is not None:
            bytes_per_token = min(nbytes / held, bytes_per_token or np.inf)
        if held >= memory_tokens:
            break
    return drafter, None if bytes_per_token is None else round(bytes_per_token, 1)


def memory_blocks(traces: Sequence[Trace], *, seed: int) -> Iterator[Int32Array]:
    """Yield disguised copies of all answers without end, each with another disguise, as int32 [4096]."""
    rng = np.random.default_rng(seed)
    answers = np.concatenate([trace.output_ids for trace in traces])
    waiting = answers[:0]
    while True:
        while len(waiting) < BLOCK_TOKENS:
            waiting = np.concatenate([waiting, disguised(answers, rng)])
        yield waiting[:BLOCK_TOKENS]
        waiting = waiting[BLOCK_TOKENS:]


def disguised(tokens: Int32Array, rng: np.random.Generator) -> Int32Array:
    """Return another text with the same repetition: all but the most frequent token ids are permuted."""
    frequencies = np.bincount(tokens)
    permuted = np.argsort(-frequencies, kind="stable")[_UNDISGUISED:]
    mapping = np.arange(len(frequencies), dtype=np.int32)
    mapping[permuted] = rng.permutation(permuted)
    return mapping[tokens]

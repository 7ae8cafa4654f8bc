"""What drafting costs once the memory is full: microseconds to propose and to insert, bytes a token.

The memory is filled with the answers of every other trace, and then with disguised copies of all answers:
each copy has its own permutation of the vocabulary, so that it is another text with the same repetition in
it. The 256 most frequent tokens stay themselves, as "the" and commas do in any text, so that what is common
is as common in a memory of a million tokens as it would be. What is measured are the other traces, replayed
in steps of three tokens with all stores taking turns at every step, so that noise hits all alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.replay import ReplayedDrafter
from lookahead.config import LookaheadConfig
from lookahead.drafting.arrays import Int32Array

Item = TypeVar("Item")

BULK_TOKENS = 4096
STREAMED_TOKENS = 3

_BULK_CALLS = 16
_MIN_BYTES = 2**26
_MAX_BYTES_PER_TOKEN = 2**10  # room enough that no store has to drop anything
_MAX_TRACES = 32
_UNDISGUISED = 256


@dataclass
class _Measured:
    """A store with its seconds by call."""

    drafter: ReplayedDrafter
    bytes_per_token: float | None = None
    propose_s: dict[int, list[float]] = field(default_factory=dict)
    streaming_s: list[float] = field(default_factory=list)
    recycle_s: list[float] = field(default_factory=list)
    bulk_s: list[float] = field(default_factory=list)


def measure_costs(
    makers: Mapping[str, Callable[[LookaheadConfig], ReplayedDrafter]],
    traces: Sequence[Trace],
    sizes: Sequence[int],
    *,
    memory_tokens: int,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Return one row of figures for each store and size, as JSON can hold them; times in microseconds.

    Args:
        makers: the stores, by name.
        traces: at least one recorded answer; where there is but one, it is also what is measured.
        sizes: draft tokens, the current one not counted.
        memory_tokens: how many tokens each memory holds before anything is measured.
        on_progress: told in words what is being done.
    """
    stores = {}
    for name, make in makers.items():
        on_progress(f"filling {name} with {memory_tokens:,} tokens")
        stores[name] = _filled(make(_roomy(memory_tokens)), traces, sizes, memory_tokens)
    on_progress("measuring what drafting costs")
    _measure_bulk(list(stores.values()), traces)
    for trace in _chosen(traces[1::2] or traces):
        _measure_trace(list(stores.values()), trace, sizes)
    return [_row(name, size, store) for name, store in stores.items() for size in sizes]


def full_bytes_per_token(
    make: Callable[[LookaheadConfig], ReplayedDrafter], traces: Sequence[Trace], memory_tokens: int
) -> float | None:
    """Return the bytes that a token takes in a memory filled to its capacity, all tables included.

    Args:
        make: makes the store.
        traces: at least one recorded answer.
        memory_tokens: how many tokens are put in at most.
    """
    bytes_per_token = _filled(make(_roomy(memory_tokens)), traces, (), memory_tokens).bytes_per_token
    return None if bytes_per_token is None else round(bytes_per_token, 1)


def memory_blocks(traces: Sequence[Trace], *, seed: int) -> Iterator[Int32Array]:
    """Yield text without end, int32 [4096] each: disguised copies of all answers, each another one."""
    rng = np.random.default_rng(seed)
    answers = np.concatenate([trace.output_ids for trace in traces])
    waiting = answers[:0]
    while True:
        while len(waiting) < BULK_TOKENS:
            waiting = np.concatenate([waiting, disguised(answers, rng)])
        yield waiting[:BULK_TOKENS]
        waiting = waiting[BULK_TOKENS:]


def disguised(tokens: Int32Array, rng: np.random.Generator) -> Int32Array:
    """Return another text with the same repetition: token ids permuted, but for the most frequent ones."""
    frequencies = np.bincount(tokens)
    permuted = np.argsort(-frequencies, kind="stable")[_UNDISGUISED:]
    mapping = np.arange(len(frequencies), dtype=np.int32)
    mapping[permuted] = rng.permutation(permuted)
    return mapping[tokens]


def _roomy(memory_tokens: int) -> LookaheadConfig:
    """Return settings with which no store has to drop any of so many tokens."""
    return LookaheadConfig(max_bytes=_MIN_BYTES + _MAX_BYTES_PER_TOKEN * memory_tokens)


def _filled(
    drafter: ReplayedDrafter, traces: Sequence[Trace], sizes: Sequence[int], memory_tokens: int
) -> _Measured:
    """Fill a memory; its bytes a token are those at its fullest, just before an array was made larger."""
    store = _Measured(drafter, propose_s={size: [] for size in sizes})
    known = np.concatenate([trace.output_ids for trace in traces[0::2]])
    held = 0
    for block in chain([known], memory_blocks(traces, seed=0)):
        _insert_block(drafter, block)
        held += len(block)
        if 2 * held >= memory_tokens:
            nbytes = drafter.nbytes
            if nbytes is not None:
                store.bytes_per_token = min(nbytes / held, store.bytes_per_token or np.inf)
        if held >= memory_tokens:
            break
    return store


def _insert_block(drafter: ReplayedDrafter, block: Int32Array) -> float:
    """Insert a block as an answer, and have it remembered; return the seconds."""
    drafter.begin(block[:1])
    started = perf_counter()
    drafter.learn(block)
    drafter.end()
    return perf_counter() - started


def _measure_bulk(stores: Sequence[_Measured], traces: Sequence[Trace]) -> None:
    blocks = memory_blocks(traces, seed=1)
    for turn in range(1 + _BULK_CALLS):
        block = next(blocks)
        for store in _in_turn(stores, turn):
            seconds = _insert_block(store.drafter, block)
            if turn > 0:  # the first one may have to make room
                store.bulk_s.append(seconds)


def _measure_trace(stores: Sequence[_Measured], trace: Trace, sizes: Sequence[int]) -> None:
    """Replay a trace in steps of three tokens: each streams them in, and drafts at every size."""
    output, successors = trace.output_ids, trace.successor_ids
    for store in stores:
        store.drafter.begin(trace.prompt_ids)
        store.drafter.learn(output[:1])
    for turn, place in enumerate(range(1, len(output) - STREAMED_TOKENS, STREAMED_TOKENS)):
        end = place + STREAMED_TOKENS
        for store in _in_turn(stores, turn):
            drafter = store.drafter
            _timed(store.streaming_s, drafter.learn, output[place:end])
            if successors.size:
                _timed(store.recycle_s, drafter.recycle, output[place - 1 : end - 1], successors[place:end])
            for size in _in_turn(sizes, turn):
                _timed(store.propose_s[size], drafter.propose, size, len(output) - end)
    for store in stores:
        store.drafter.end()


def _timed(seconds: list[float], call: Callable[..., object], *arguments: object) -> None:
    started = perf_counter()
    call(*arguments)
    seconds.append(perf_counter() - started)


def _in_turn(items: Sequence[Item], turn: int) -> list[Item]:
    """Return the items beginning at another one each turn."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def _chosen(traces: Sequence[Trace]) -> Sequence[Trace]:
    """At most so many traces, at even distances."""
    return traces[:: -(-len(traces) // _MAX_TRACES)]


def _row(name: str, size: int, store: _Measured) -> dict[str, Any]:
    return {
        "store": name,
        "draft_tokens": size,
        "propose_us_p50": _microseconds(store.propose_s[size], 50),
        "propose_us_p99": _microseconds(store.propose_s[size], 99),
        "bulk_insert_us_per_token": round(1e6 * float(np.median(store.bulk_s)) / BULK_TOKENS, 3),
        "streaming_insert_us_p50": _microseconds(store.streaming_s, 50),
        "streaming_insert_us_p99": _microseconds(store.streaming_s, 99),
        "recycle_us_p50": _microseconds(store.recycle_s, 50),
        "recycle_us_p99": _microseconds(store.recycle_s, 99),
        "bytes_per_token": None if store.bytes_per_token is None else round(store.bytes_per_token, 1),
    }


def _microseconds(seconds: Sequence[float], percentile: float) -> float | None:
    return round(1e6 * float(np.percentile(seconds, percentile)), 1) if seconds else None

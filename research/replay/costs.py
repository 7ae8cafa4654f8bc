"""What drafting costs when the memory is full: microseconds to propose and to insert, bytes per token.

Each memory is filled as in `lookahead.bench.replay.full_memory`. Then every second trace is replayed in steps
of three tokens. All stores take turns at every step, so noise affects all of them alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.full_memory import BLOCK_TOKENS, filled_drafter, memory_blocks
from lookahead.bench.replay.replay import ReplayedDrafter
from lookahead.config import LookaheadConfig
from lookahead.drafting.arrays import Int32Array

Item = TypeVar("Item")

STREAMED_TOKENS = 3

_BULK_CALLS = 16
_MAX_TRACES = 32


@dataclass
class _Measured:
    """A store, and the seconds of its calls."""

    drafter: ReplayedDrafter
    bytes_per_token: float | None
    propose_s: dict[int, list[float]]
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
    """Return one JSON-serialisable row of figures for each store and size; times in microseconds.

    Args:
        makers: The stores, by name.
        traces: At least one recorded answer. A single one fills the memory and is measured, too.
        sizes: Draft tokens, without the current one.
        memory_tokens: Tokens in each memory before anything is measured.
        on_progress: Called with a description of each stage.
    """
    stores = {}
    for name, make in makers.items():
        on_progress(f"filling {name} with {memory_tokens:,} tokens")
        drafter, bytes_per_token = filled_drafter(make, traces, memory_tokens)
        stores[name] = _Measured(drafter, bytes_per_token, {size: [] for size in sizes})
    on_progress("measuring what drafting costs")
    _measure_bulk(list(stores.values()), traces)
    for trace in _chosen(traces[1::2] or traces):
        _measure_trace(list(stores.values()), trace, sizes)
    return [_row(name, size, store) for name, store in stores.items() for size in sizes]


def _measure_bulk(stores: Sequence[_Measured], traces: Sequence[Trace]) -> None:
    blocks = memory_blocks(traces, seed=1)
    for turn in range(1 + _BULK_CALLS):
        block = next(blocks)
        for store in _in_turn(stores, turn):
            seconds = _insert_block(store.drafter, block)
            if turn > 0:  # the first call may have to grow an array
                store.bulk_s.append(seconds)


def _insert_block(drafter: ReplayedDrafter, block: Int32Array) -> float:
    """Insert a block as the answer of a request and close the request; return the seconds."""
    drafter.begin(block[:1])
    started = perf_counter()
    drafter.learn(block)
    drafter.end()
    return perf_counter() - started


def _measure_trace(stores: Sequence[_Measured], trace: Trace, sizes: Sequence[int]) -> None:
    """Replay a trace in steps of three tokens; at each step every store learns them and drafts every size."""
    output, successors = trace.output_ids, trace.successor_ids
    for store in stores:
        store.drafter.begin(trace.prompt_ids)
        store.drafter.learn(output[:1])
    for turn, start in enumerate(range(1, len(output) - STREAMED_TOKENS, STREAMED_TOKENS)):
        end = start + STREAMED_TOKENS
        for store in _in_turn(stores, turn):
            drafter = store.drafter
            _timed(store.streaming_s, drafter.learn, output[start:end])
            if successors.size:
                _timed(store.recycle_s, drafter.recycle, output[start - 1 : end - 1], successors[start:end])
            for size in _in_turn(sizes, turn):
                _timed(store.propose_s[size], drafter.propose, size, len(output) - end)
    for store in stores:
        store.drafter.end()


def _timed(seconds: list[float], call: Callable[..., object], *arguments: object) -> None:
    started = perf_counter()
    call(*arguments)
    seconds.append(perf_counter() - started)


def _in_turn(items: Sequence[Item], turn: int) -> list[Item]:
    """Return the items, rotated by one more at each turn."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def _chosen(traces: Sequence[Trace]) -> Sequence[Trace]:
    """Return at most 32 traces at even distances."""
    return traces[:: -(-len(traces) // _MAX_TRACES)]


def _row(name: str, size: int, store: _Measured) -> dict[str, Any]:
    return {
        "store": name,
        "draft_tokens": size,
        "propose_us_p50": _microseconds(store.propose_s[size], 50),
        "propose_us_p99": _microseconds(store.propose_s[size], 99),
        "bulk_insert_us_per_token": round(1e6 * float(np.median(store.bulk_s)) / BLOCK_TOKENS, 3),
        "streaming_insert_us_p50": _microseconds(store.streaming_s, 50),
        "streaming_insert_us_p99": _microseconds(store.streaming_s, 99),
        "recycle_us_p50": _microseconds(store.recycle_s, 50),
        "recycle_us_p99": _microseconds(store.recycle_s, 99),
        "bytes_per_token": store.bytes_per_token,
    }


def _microseconds(seconds: Sequence[float], percentile: float) -> float | None:
    return round(1e6 * float(np.percentile(seconds, percentile)), 1) if seconds else None

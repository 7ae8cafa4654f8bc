"""Replay several drafters at several sizes, and return rows of figures."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.drafters import SIZED, Makers
from lookahead.bench.replay.full_memory import filled_drafter
from lookahead.bench.replay.known_noise import KnownNoise
from lookahead.bench.replay.replay import ReplayResult, Tally, replay
from lookahead.config import LookaheadConfig


def replay_results(
    makers: Makers,
    config: LookaheadConfig,
    traces: Sequence[Trace],
    sizes: Sequence[int],
    *,
    memory_tokens: int,
    warming: Sequence[Trace] = (),
    recycling: bool = True,
    known_noise: KnownNoise = KnownNoise.OWN,
    sized: Collection[str] = SIZED,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Replay the traces through every drafter at every size; return a row of `summarise_replay` for each.

    Args:
        makers: The drafters, by name.
        config: Branch length and draft mode.
        traces: Recorded answers.
        sizes: Draft tokens, without the current one.
        memory_tokens: Tokens in the memory whose bytes per token are measured.
        warming: Traces that each drafter learns first, unmeasured.
        recycling: Whether recorded successors are recycled.
        known_noise: What drafters know of the noise of sampled answers.
        sized: Names of the drafters whose bytes per token are measured.
        on_progress: Called with a description of each stage.
    """
    rows = []
    for name, make in makers.items():
        bytes_per_token = None
        if name in sized:
            on_progress(f"filling {name}")
            bytes_per_token = filled_drafter(make, traces, memory_tokens)[1]
        for size in sizes:
            on_progress(f"replaying {name} with {size} draft tokens")
            drafter = make(config)
            replayed = partial(
                replay, drafter, draft_tokens=size, recycling=recycling, known_noise=known_noise
            )
            replayed(warming)
            result = replayed(traces)
            rows.append(summarise_replay(name, size, result, bytes_per_token))
    return rows


def summarise_replay(
    name: str, draft_tokens: int, result: ReplayResult, bytes_per_token: float | None = None
) -> dict[str, Any]:
    """Return one JSON-serialisable row of figures; times in microseconds.

    Args:
        name: Name of the store.
        draft_tokens: Maximum number of draft tokens, without the current one.
        result: The replay's result.
        bytes_per_token: Bytes per token of the full store, if known.
    """
    propose_us = np.array(result.propose_s or [0.0]) * 1e6
    calibration = result.calibration
    return {
        "store": name,
        "draft_tokens": draft_tokens,
        "mean_acceptance_length": _rounded(result.overall),
        "by_category": {category: _rounded(tally) for category, tally in result.by_category.items()},
        "without_loops": _rounded(result.before_loops),
        "even_requests": _rounded(result.halves[0]),
        "odd_requests": _rounded(result.halves[1]),
        "propose_us_p50": round(float(np.percentile(propose_us, 50)), 1),
        "propose_us_p99": round(float(np.percentile(propose_us, 99)), 1),
        "insert_us_per_token": round(sum(result.insert_s) * 1e6 / max(1, result.inserted_tokens), 2),
        "recycle_us_per_token": round(sum(result.recycle_s) * 1e6 / max(1, result.recycled_tokens), 2),
        "bytes_per_token": bytes_per_token,
        "calibration": None if calibration is None else calibration.summary(),
    }


def _rounded(tally: Tally) -> float | None:
    length = tally.mean_acceptance_length
    return None if length is None else round(length, 4)

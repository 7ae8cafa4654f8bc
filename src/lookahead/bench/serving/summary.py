"""Summarise rounds: medians by method, and ratios of speeds, paired by round."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lookahead.bench.report.uncertainty import median_interval
from lookahead.bench.serving.engines import Drafts
from lookahead.bench.serving.registry import BASELINE, engine_name
from lookahead.bench.serving.rounds import Figures, ServingResult

_COUNTS = ("differing", "errors")


def summarise_serving(result: ServingResult, methods: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
    """Return every figure of an experiment as JSON-serialisable values; None for what was not measured.

    Args:
        result: What was measured.
        methods: The names of the methods, in the order of the report.
        rows: The numbers of rows.
    """
    rounds = result.rounds
    measured = [name for name in methods if any(name in figures for figures in rounds)]
    drafts = {
        str(count): {
            f"{kind.value}_over_off": speed_ratio(
                rounds, engine_name(kind, count), engine_name(Drafts.OFF, count)
            )
            for kind in (Drafts.COLD, Drafts.WARM)
        }
        for count in dict.fromkeys(rows)
    }
    return {
        "methods": {
            name: {
                "rounds": sum(name in figures for figures in rounds),
                **_medians([figures[name] for figures in rounds if name in figures]),
                "speedup": None if name == BASELINE else speed_ratio(rounds, name, BASELINE),
                "about": result.about.get(name, ""),
            }
            for name in measured
        },
        "drafts": drafts,
        "failed": result.failed,
        "resumed_rounds": result.resumed,
        "interrupted": result.interrupted,
        "rounds": rounds,
    }


def speed_ratio(rounds: Sequence[dict[str, Figures]], over: str, under: str) -> dict[str, Any] | None:
    """Return the median of a ratio of tokens per second over the rounds, with its 95% interval."""
    pairs = [
        (figures[over]["tokens_per_second"], figures[under]["tokens_per_second"])
        for figures in rounds
        if over in figures and under in figures
    ]
    ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
    if not ratios:
        return None
    interval = median_interval(ratios)
    return {
        "median": round(float(np.median(ratios)), 4),
        "interval": interval and [round(bound, 4) for bound in interval],
        "rounds": len(ratios),
    }


def _medians(figures: Sequence[Figures]) -> Figures:
    """Return the median of each figure over the rounds, and the sums of counted differences."""
    found: Figures = {}
    for name in figures[0]:
        values = [of_round[name] for of_round in figures if of_round[name] is not None]
        if name in _COUNTS:
            found[name] = sum(values) if values else None
        else:
            found[name] = round(float(np.median(values)), 4) if values else None
    return found

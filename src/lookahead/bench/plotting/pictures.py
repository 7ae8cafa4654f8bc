"""The pictures of a benchmark's report: which ones it has, by file name.

To add one: write a function that returns how to draw it, or None, and add a line to `PICTURES`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD, LOOKAHEAD_FRESH
from lookahead.bench.plotting.kit import Points, draw_bars, draw_curves
from lookahead.bench.plotting.speedups import about_report, drawn_methods, plot_speedups

Report = dict[str, Any]
Draw = Callable[[Path], None]
"""Writes a picture; the suffix of the path chooses the format."""

_MIN_POINTS = 3
_MANY_METHODS = 4
_WINDOW_SHARE = 4


def pictures_of(report: Report) -> dict[str, Draw]:
    """Return how to draw a benchmark's figures, by file name without suffix."""
    made = {name: picture_of(report) for name, picture_of in PICTURES.items()}
    return {name: draw for name, draw in made.items() if draw is not None}


def _speedup(report: Report) -> Draw | None:
    drawn = drawn_methods(report["decode_speedup"])
    by_category = len(report["prompts"]["by_category"]) > 1
    return partial(plot_speedups, report) if drawn and (by_category or len(drawn) <= _MANY_METHODS) else None


def _methods(report: Report) -> Draw | None:
    bars = {method: figures["overall"] for method, figures in report["decode_speedup"].items()}
    if len(bars) <= _MANY_METHODS or not all(bars.values()):
        return None
    return partial(
        draw_bars,
        bars=bars,
        says="Decoding speed, by method",
        about=about_report(report),
        name="decoding speed ÷ transformers",
        references=[LOOKAHEAD],
    )


def _peak_memory(report: Report) -> Draw | None:
    peaks = (report.get("peak_memory") or {}).get("mebibytes", {})
    if LOOKAHEAD not in peaks:
        return None
    return partial(
        draw_bars,
        bars=peaks,
        says=f"Peak memory: {peaks[LOOKAHEAD] / peaks[BASELINE] - 1:+.1%} beside {BASELINE}",
        about=about_report(report),
        name="MiB at most",
        references=[LOOKAHEAD],
        digits=0,
    )


def _warm_up(report: Report) -> Draw | None:
    grown, emptied = (_acceptance_curve(report, name) for name in (LOOKAHEAD, LOOKAHEAD_FRESH))
    if len(emptied[0]) < _MIN_POINTS or len(grown[0]) != len(emptied[0]):
        return None
    return warm_up_picture(grown[0], grown[1], emptied[1], about_report(report))


PICTURES: dict[str, Callable[[Report], Draw | None]] = {
    "speedup": _speedup,
    "methods": _methods,
    "peak-memory": _peak_memory,
    "warm-up": _warm_up,
}


def warm_up_picture(
    requests: Sequence[float], with_memory: Sequence[float], without: Sequence[float], about: str
) -> Draw:
    """Return how to draw the gain of a growing memory (the gain, as some requests are harder than others)."""
    gains = [100 * (grown / emptied - 1) for grown, emptied in zip(with_memory, without, strict=True)]
    return partial(
        draw_curves,
        curves={"": (requests, gains)},
        says=f"A growing memory adds {gains[-1]:+.0f}% tokens a forward".replace("+", ""),
        about=f"against one emptied before each request; {about}, in random order",
        names=("requests seen", "more tokens a forward, %, moving mean"),
        level=0,
    )


def _acceptance_curve(report: Report, method: str) -> Points:
    """Return requests, and the mean acceptance length of a window of a quarter of them."""
    runs = [row["runs"][method] for row in report["per_prompt"] if method in row["runs"]]
    size = max(1, len(runs) // _WINDOW_SHARE)
    x, y = [], []
    for end in range(size, len(runs) + 1):
        window = runs[end - size : end]
        steps = sum(run["steps"] for run in window)
        if steps:
            x.append(float(end))
            y.append(sum(run["decode_tokens"] for run in window) / steps)
    return x, y

"""The pictures of a benchmark's report: which ones it has, by file name.

To add one: write a function that returns how to draw it, or None, and add a line to `PICTURES`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD
from research.bench.variants import LOOKAHEAD_FRESH
from research.plotting.heat_map import draw_heat_map
from research.plotting.kit import Points, draw_bars, draw_curves
from research.plotting.speedups import about_report, drawn_methods, plot_speedups

Report = dict[str, Any]
Draw = Callable[[Path], None]
"""Writes a picture; the suffix of the path chooses the format."""

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")
_CAPACITY = re.compile(r"lookahead-(\d+)KiB")
LENGTH_AND_DEPTH = ("decoding length: tokens verified", "branch length: how deep a draft goes")
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


def _grid(report: Report) -> Draw | None:
    return partial(draw_grid, report) if len(_cells(report)) > 1 else None


def draw_grid(report: Report, path: Path) -> None:
    """Draw the decoding speed by decoding and branch length."""
    cells = _cells(report)
    best = max(cells, key=cells.__getitem__)
    draw_heat_map(
        path,
        cells,
        says=f"{cells[best]:.2f}x at {best[0]} tokens, {best[1]} deep",
        about=f"decoding speed ÷ transformers; {about_report(report)}",
        names=LENGTH_AND_DEPTH,
    )


def _capacity(report: Report) -> Draw | None:
    sizes = sorted(
        (int(matched[1]) * 2**10, figures["overall"])
        for method, figures in report["decode_speedup"].items()
        if (matched := _CAPACITY.fullmatch(method)) and figures["overall"]
    )
    if len(sizes) < 2:
        return None
    return partial(
        draw_curves,
        curves={LOOKAHEAD: ([size for size, _ in sizes], [figure for _, figure in sizes])},
        says="How large a memory does it take?",
        about=about_report(report),
        names=("memory, bytes", "decoding speed ÷ transformers"),
        level=1,
        logarithmic=True,
    )


def _cells(report: Report) -> dict[tuple[int, int], float]:
    return {
        (int(matched[1]), int(matched[2])): figures["overall"]
        for method, figures in report["decode_speedup"].items()
        if (matched := _GRID.fullmatch(method)) and figures["overall"]
    }


PICTURES: dict[str, Callable[[Report], Draw | None]] = {
    "speedup": _speedup,
    "methods": _methods,
    "peak-memory": _peak_memory,
    "warm-up": _warm_up,
    "grid": _grid,
    "capacity": _capacity,
}


def warm_up_picture(
    requests: Sequence[float], with_memory: Sequence[float], without: Sequence[float], about: str
) -> Draw:
    """Return how to draw the gain of a growing memory (the gain, as some requests are harder than others)."""
    gains = [100 * (grown / emptied - 1) for grown, emptied in zip(with_memory, without, strict=True)]
    return partial(
        draw_curves,
        curves={"": (requests, gains)},
        says=f"A growing memory adds {gains[-1]:+.0f}% tokens per forward pass".replace("+", ""),
        about=f"against one emptied before each request; {about}, in random order",
        names=("requests seen", "more tokens per forward pass, %, moving mean"),
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

"""Which pictures a report has: each a function of the report, named by what its file is called."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lookahead.bench.methods.registry import BASELINE, LOOKAHEAD, LOOKAHEAD_FRESH
from lookahead.bench.plotting.plot_kinds import Points, draw_bars, draw_curves, draw_heat_map
from lookahead.bench.plotting.plots import about_report, drawn_methods, plot_speedups

Draw = Callable[[Path], None]
"""Writes a picture; the path's ending says in which format."""

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")
_CAPACITY = re.compile(r"lookahead-(\d+)KiB")
_LENGTH_AND_DEPTH = ("decoding length: tokens verified", "branch length: how deep a draft goes")
_FEWEST_POINTS = 3
_MANY_METHODS = 4
_WINDOW_SHARE = 4


def pictures_of(report: dict[str, Any]) -> dict[str, Draw]:
    """Return what a benchmark's figures can be drawn as, by file name without ending."""
    pictures: dict[str, Draw] = {}
    drawn = drawn_methods(report["decode_speedup"])
    if drawn and (len(drawn) <= _MANY_METHODS or len(report["prompts"]["by_category"]) > 1):
        pictures["speedup"] = partial(plot_speedups, report)
    bars = {method: figures["overall"] for method, figures in report["decode_speedup"].items()}
    if len(bars) > _MANY_METHODS and all(bars.values()):
        pictures["methods"] = partial(
            draw_bars,
            bars=bars,
            says="Decoding speed, by method",
            about=about_report(report),
            name="decoding speed ÷ transformers",
            references=[LOOKAHEAD],
        )
    peaks = (report.get("peak_memory") or {}).get("mebibytes", {})
    if LOOKAHEAD in peaks:
        more = peaks[LOOKAHEAD] / peaks[BASELINE] - 1
        pictures["peak-memory"] = partial(
            draw_bars,
            bars=peaks,
            says=f"Peak memory: {more:+.1%} beside {BASELINE}",
            about=about_report(report),
            name="MiB at most",
            references=[LOOKAHEAD],
            digits=0,
        )
    cells = {
        (int(matched[1]), int(matched[2])): figures["overall"]
        for method, figures in report["decode_speedup"].items()
        if (matched := _GRID.fullmatch(method)) and figures["overall"]
    }
    if len(cells) > 1:
        best = max(cells, key=cells.__getitem__)
        pictures["grid"] = partial(
            draw_heat_map,
            cells=cells,
            says=f"{cells[best]:.2f}x at {best[0]} tokens, {best[1]} deep",
            about=f"decoding speed ÷ transformers; {about_report(report)}",
            names=_LENGTH_AND_DEPTH,
        )
    sizes = _sizes(report)
    if len(sizes[0]) > 1:
        pictures["capacity"] = partial(
            draw_curves,
            curves={LOOKAHEAD: sizes},
            says="How large a memory does it take?",
            about=about_report(report),
            names=("memory, bytes", "decoding speed ÷ transformers"),
            level=1,
            logarithmic=True,
        )
    grown, emptied = (_warm_up_curve(report, name) for name in (LOOKAHEAD, LOOKAHEAD_FRESH))
    if len(emptied[0]) >= _FEWEST_POINTS and len(grown[0]) == len(emptied[0]):
        pictures["warm-up"] = _warm_up_picture(grown[0], grown[1], emptied[1], about_report(report))
    return pictures


def replay_pictures_of(report: dict[str, Any]) -> dict[str, Draw]:
    """Return what a replayed experiment's figures can be drawn as, by file name without ending."""
    makers = {"grid": _grid, "capacity": _capacity, "ablation": _ablation, "warm-up": _warm_up}
    name = report["experiment"]
    about = f"{report['traces']} answers of {report['data']} replayed, memory growing from request to request"
    return {name: makers[name](report["results"], about)}


def _grid(rows: list[dict[str, Any]], about: str) -> Draw:
    cells = {
        (row["labels"]["decoding_length"], row["labels"]["branch_length"]): row["mean_acceptance_length"]
        for row in rows
    }
    best = max(cells, key=cells.__getitem__)
    return partial(
        draw_heat_map,
        cells=cells,
        says=f"Tokens a forward: {cells[best]:.2f} at {best[0]} tokens, {best[1]} deep",
        about=about,
        names=_LENGTH_AND_DEPTH,
    )


def _capacity(rows: list[dict[str, Any]], about: str) -> Draw:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        x, y = curves.setdefault(row["labels"]["store"], ([], []))
        x.append(row["labels"]["memory_bytes"])
        y.append(row["mean_acceptance_length"])
    return partial(
        draw_curves,
        curves=curves,
        says="Tokens a forward, by how large the memory is",
        about=about,
        names=("memory, bytes", "tokens a forward"),
        logarithmic=True,
    )


def _ablation(rows: list[dict[str, Any]], about: str) -> Draw:
    bars = {row["store"]: row["mean_acceptance_length"] for row in rows}
    return partial(
        draw_bars,
        bars=bars,
        says="What each idea gives",
        about=about,
        name="tokens a forward",
        references=["log", "trie"],
    )


def _warm_up(rows: list[dict[str, Any]], about: str) -> Draw:
    grown, emptied = (row["by_requests"] for row in rows)
    requests, with_memory, without = [x for x, _ in grown], [y for _, y in grown], [y for _, y in emptied]
    return _warm_up_picture(requests, with_memory, without, about.partition(",")[0])


def _warm_up_picture(
    requests: Sequence[float], with_memory: Sequence[float], without: Sequence[float], about: str
) -> Draw:
    """Draw what the memory adds: the requests at one place are not as easy as those at another."""
    gains = [100 * (ours / theirs - 1) for ours, theirs in zip(with_memory, without, strict=True)]
    return partial(
        draw_curves,
        curves={"": (requests, gains)},
        says=f"A growing memory adds {gains[-1]:+.0f}% tokens a forward".replace("+", ""),
        about=f"against one emptied before each request; {about}, in random order",
        names=("requests seen", "more tokens a forward, %, moving mean"),
        level=0,
    )


def _sizes(report: dict[str, Any]) -> Points:
    found = sorted(
        (int(matched[1]) * 2**10, figures["overall"])
        for method, figures in report["decode_speedup"].items()
        if (matched := _CAPACITY.fullmatch(method)) and figures["overall"]
    )
    return [size for size, _ in found], [figure for _, figure in found]


def _warm_up_curve(report: dict[str, Any], method: str) -> Points:
    """Return acceptance against requests seen, a moving mean of a quarter of them."""
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

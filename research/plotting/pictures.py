"""The pictures of the paper's experiments, live and by replay, by file name."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lookahead.bench.methods.registry import LOOKAHEAD
from lookahead.bench.plotting.kit import draw_bars, draw_curves
from lookahead.bench.plotting.pictures import Draw, Report, warm_up_picture
from lookahead.bench.plotting.speedups import about_report
from research.plotting.heat_map import draw_heat_map

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")
_CAPACITY = re.compile(r"lookahead-(\d+)KiB")
_LENGTH_AND_DEPTH = ("decoding length: tokens verified", "branch length: how deep a draft goes")


def grid_picture(report: Report) -> Draw | None:
    """Return how to draw the decoding speed by decoding and branch length; None without such methods."""
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
        names=_LENGTH_AND_DEPTH,
    )


def capacity_picture(report: Report) -> Draw | None:
    """Return how to draw the decoding speed by the memory's size; None without such methods."""
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


LIVE_PICTURES = {"grid": grid_picture, "capacity": capacity_picture}


def replay_pictures_of(report: Report) -> dict[str, Draw]:
    """Return how to draw an experiment by replay, by file name without suffix."""
    name = report["experiment"]
    about = f"{report['traces']} answers of {report['data']} replayed, memory growing from request to request"
    return {name: _REPLAYED[name](report["results"], about)}


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
    return partial(
        draw_bars,
        bars={row["store"]: row["mean_acceptance_length"] for row in rows},
        says="What each idea gives",
        about=about,
        name="tokens a forward",
        references=["log", "trie"],
    )


def _warm_up(rows: list[dict[str, Any]], about: str) -> Draw:
    grown, emptied = (row["by_requests"] for row in rows)
    requests, with_memory, without = [x for x, _ in grown], [y for _, y in grown], [y for _, y in emptied]
    return warm_up_picture(requests, with_memory, without, about.partition(",")[0])


_REPLAYED: dict[str, Callable[[list[dict[str, Any]], str], Draw]] = {
    "grid": _grid,
    "capacity": _capacity,
    "ablation": _ablation,
    "warm-up": _warm_up,
}

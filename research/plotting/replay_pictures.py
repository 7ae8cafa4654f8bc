"""The pictures of the paper's experiments by replay, by file name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from research.plotting.bench_pictures import LENGTH_AND_DEPTH, Draw, Report, warm_up_picture
from research.plotting.heat_map import draw_heat_map
from research.plotting.kit import draw_bars, draw_curves


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
        says=f"Tokens per forward pass: {cells[best]:.2f} at {best[0]} tokens, {best[1]} deep",
        about=about,
        names=LENGTH_AND_DEPTH,
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
        says="Tokens per forward pass, by how large the memory is",
        about=about,
        names=("memory, bytes", "tokens per forward pass"),
        logarithmic=True,
    )


def _ablation(rows: list[dict[str, Any]], about: str) -> Draw:
    return partial(
        draw_bars,
        bars={row["store"]: row["mean_acceptance_length"] for row in rows},
        says="What each idea gives",
        about=about,
        name="tokens per forward pass",
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

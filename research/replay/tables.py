"""The tables of experiments and costs by replay."""

from collections.abc import Sequence
from typing import Any

from lookahead.bench.replay.tables import cost_table
from lookahead.bench.report.table_maker import FigureTable, number

_FULL_COSTS = {
    "draft_tokens": "draft\ntokens",
    "propose_us_p50": "propose\nµs p50",
    "propose_us_p99": "propose\nµs p99",
    "bulk_insert_us_per_token": "bulk\nµs/tok",
    "streaming_insert_us_p50": "stream\nµs p50",
    "streaming_insert_us_p99": "stream\nµs p99",
    "recycle_us_p50": "recycle\nµs p50",
    "bytes_per_token": "bytes\n/tok",
}


def full_cost_table(rows: Sequence[dict[str, Any]], memory_tokens: int) -> FigureTable:
    """Return what drafting costs with a full memory."""
    title = f"Cost with {memory_tokens:,} tokens in memory, streaming 3 per call"
    return cost_table(title, rows, _FULL_COSTS)


def experiment_tables(report: dict[str, Any]) -> list[FigureTable]:
    """Return an experiment's acceptance: a grid for `grid`, else one line per variant."""
    rows = report["results"]
    if report["experiment"] == "grid":
        return [_grid_table(rows)]
    categories = list(rows[0]["by_category"])
    headings = ("variant", "all", "no\nloops", *(name.replace("_", "\n") for name in categories))
    lines = tuple(
        (
            row["store"],
            number(row["mean_acceptance_length"]),
            number(row["without_loops"]),
            *(number(row["by_category"].get(category)) for category in categories),
        )
        for row in rows
    )
    title = f"Mean acceptance length, {rows[0]['draft_tokens']} draft tokens, memory growing"
    return [FigureTable(title, headings, lines)]


def _grid_table(rows: Sequence[dict[str, Any]]) -> FigureTable:
    cells = {
        (row["labels"]["decoding_length"], row["labels"]["branch_length"]): row["mean_acceptance_length"]
        for row in rows
    }
    lengths, depths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    lines = tuple((str(length), *(number(cells[length, depth]) for depth in depths)) for length in lengths)
    headings = ("decoding length", *(f"{depth} deep" for depth in depths))
    return FigureTable("Mean acceptance length, by decoding length and branch length", headings, lines)

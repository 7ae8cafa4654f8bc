"""A replay's figures as tables that fit a terminal of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lookahead.bench.report.figure_table import NOTHING, FigureTable, compact_table, number

_REPLAY_COSTS = {
    "draft_tokens": "draft\ntokens",
    "propose_us_p50": "propose\nµs p50",
    "propose_us_p99": "propose\nµs p99",
    "insert_us_per_token": "insert µs\na token",
    "recycle_us_per_token": "recycle µs\na token",
    "bytes_per_token": "bytes\na token",
}
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


def acceptance_table(rows: Sequence[dict[str, Any]], memory: str) -> Table:
    """Mean acceptance length: one line for each store and size."""
    table = compact_table(f"Mean acceptance length, memory {memory}, growing", "store")
    categories = list(rows[0]["by_category"])
    for heading in ("draft\ntokens", "all", "no\nloops", *(name.replace("_", "\n") for name in categories)):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        lengths = [row["mean_acceptance_length"], row["without_loops"], *row["by_category"].values()]
        table.add_row(row["store"], str(row["draft_tokens"]), *(number(length) for length in lengths))
    return table


def replay_cost_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What drafting cost in the replay itself."""
    return _cost_table("Cost in this replay", rows, _REPLAY_COSTS)


def full_cost_table(rows: Sequence[dict[str, Any]], memory_tokens: int) -> Table:
    """What drafting costs with a full memory."""
    return _cost_table(f"Cost with {memory_tokens:,} tokens in memory, streaming 3 a call", rows, _FULL_COSTS)


def _cost_table(title: str, rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> Table:
    table = compact_table(title, "store")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row["store"], *(NOTHING if row[name] is None else str(row[name]) for name in columns))
    return table


def experiment_tables(report: dict[str, Any]) -> list[FigureTable]:
    """A replayed experiment's acceptance: a grid where it is one, else a line for each variant."""
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
    lengths, depths = (sorted({cell[place] for cell in cells}) for place in (0, 1))
    lines = tuple((str(length), *(number(cells[length, depth]) for depth in depths)) for length in lengths)
    headings = ("decoding length", *(f"{depth} deep" for depth in depths))
    return FigureTable("Mean acceptance length, by decoding length and branch length", headings, lines)

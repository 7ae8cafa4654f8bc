"""The tables of a replay, for a terminal of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from lookahead.bench.report.table_maker import NOTHING, FigureTable, figure_table, number

_COSTS = {
    "draft_tokens": "draft\ntokens",
    "propose_us_p50": "propose\nµs p50",
    "propose_us_p99": "propose\nµs p99",
    "insert_us_per_token": "insert µs\nper token",
    "recycle_us_per_token": "recycle µs\nper token",
    "bytes_per_token": "bytes\nper token",
}


def acceptance_table(rows: Sequence[dict[str, Any]], memory: str) -> FigureTable:
    """Return the mean acceptance length of each store and size."""
    categories = [name.replace("_", "\n") for name in rows[0]["by_category"]]
    lengths = [
        (row["mean_acceptance_length"], row["without_loops"], *row["by_category"].values()) for row in rows
    ]
    return figure_table(
        f"Mean acceptance length, memory {memory}, growing",
        ("store", "draft\ntokens", "all", "no\nloops", *categories),
        (
            (row["store"], str(row["draft_tokens"]), *map(number, of_row))
            for row, of_row in zip(rows, lengths, strict=True)
        ),
    )


def replay_cost_table(rows: Sequence[dict[str, Any]]) -> FigureTable:
    """Return what drafting cost in the replay itself."""
    return cost_table("Cost in this replay", rows, _COSTS)


def cost_table(title: str, rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> FigureTable:
    """Return one line per row of figures; `columns` maps the figures to show to their headings."""
    cells = (
        (row["store"], *(NOTHING if row[name] is None else str(row[name]) for name in columns))
        for row in rows
    )
    return figure_table(title, ("store", *columns.values()), cells)

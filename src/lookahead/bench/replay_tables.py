"""A replay's figures as tables that fit a terminal of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lookahead.bench.tables import NOTHING, compact_table, number

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

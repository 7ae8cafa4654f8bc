"""The tables of a simulated fleet, for a terminal of 80 columns."""

from collections.abc import Sequence
from typing import Any

from lookahead.bench.report.table_maker import FigureTable, figure_table, number


def drafts_table(rows: Sequence[dict[str, Any]]) -> FigureTable:
    """Return what drafts give: tokens per forward pass, over all requests, new questions, repeated ones."""
    return figure_table(
        "Tokens per forward pass",
        (*_headings(rows), "all", "±", "new", "repeated", "busiest\n÷ mean"),
        (
            (
                *_names(row, rows),
                *(number(row[name]) for name in ("tokens_per_forward", "standard_error", *_KINDS)),
                number(row["busiest_load"], decimals=1),
            )
            for row in rows
        ),
    )


def costs_table(rows: Sequence[dict[str, Any]]) -> FigureTable:
    """Return what memories and their exchange cost each replica."""
    return figure_table(
        "Of each replica",
        (*_headings(rows), "tokens in\nmemory", "sent\nkB/s", "received\nkB/s", "lost"),
        (
            (
                *_names(row, rows),
                f"{row['memory_tokens']:,}",
                f"{row['sent_bytes_per_s'] / 1000:.2f}",
                f"{row['received_bytes_per_s'] / 1000:,.1f}",
                f"{row['lost_share']:.0%}",
            )
            for row in rows
        ),
    )


_KINDS = ("of_new", "of_repeated")
_SOMETIMES_VARIED: dict[str, tuple[str, float]] = {
    "repeated": ("repeated\nshare", 1),
    "memory_bytes": ("memory\nMiB", 2**20),
}
"""Headings and units of what is shown only where it differs."""


def _varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in _SOMETIMES_VARIED if len({row[name] for row in rows}) > 1]


def _headings(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return ("replicas", "route", "exchange", *(_SOMETIMES_VARIED[name][0] for name in _varied(rows)))


def _names(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    every = row["exchange_s"]
    varied = (f"{row[name] / _SOMETIMES_VARIED[name][1]:g}" for name in _varied(rows))
    return (f"{row['replicas']:,}", row["route"], "never" if every is None else f"{every:g} s", *varied)

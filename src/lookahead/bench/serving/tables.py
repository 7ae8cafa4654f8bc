"""The tables of the experiment, for a terminal of 80 columns, and the remarks beside them."""

from collections.abc import Iterator
from typing import Any

from lookahead.bench.report.table_maker import NOTHING, FigureTable, figure_table, interval, number, times
from lookahead.bench.serving.registry import BASELINE

Summary = dict[str, Any]


def serving_tables(summary: Summary) -> list[FigureTable]:
    """Return all tables that there are figures for."""
    tables = (speed_table(summary), waiting_table(summary), drafts_table(summary))
    return [table for table in tables if table.rows]


def speed_table(summary: Summary) -> FigureTable:
    """Return one line per method: its speed, its speed over the baseline's, and its texts."""
    headings = ("method", "tokens/s", "speedup", "95%", "tokens/\npass", "acc.\nlength", "differ")
    rows = (
        (
            name,
            number(figures["tokens_per_second"], decimals=1),
            *_ratio(figures["speedup"]),
            number(figures["tokens_per_forward"]),
            number(figures["acceptance_length"]),
            NOTHING if figures["differing"] is None else str(figures["differing"]),
        )
        for name, figures in summary["methods"].items()
    )
    table = figure_table(f"Medians of the rounds; speedup over {BASELINE}, paired", headings, rows)
    return table.without_empty_columns()


def waiting_table(summary: Summary) -> FigureTable:
    """Return one line per method: its wall time, and milliseconds to the first token and each later one."""
    headings = ("method", "wall s", "first\np50 ms", "p99", "later\np50 ms", "p99")
    names = ("first_token_p50_ms", "first_token_p99_ms", "token_p50_ms", "token_p99_ms")
    rows = (
        (method, number(figures["wall_s"]), *(number(figures[name], decimals=1) for name in names))
        for method, figures in summary["methods"].items()
    )
    return figure_table("Wall time, and waiting for the first and each later token", headings, rows)


def drafts_table(summary: Summary) -> FigureTable:
    """Return one line per number of rows: the engine's speed with drafts over that without."""
    rows = (
        (count, *_ratio(ratios["cold_over_off"]), *_ratio(ratios["warm_over_off"]))
        for count, ratios in summary["drafts"].items()
        if any(ratios.values())
    )
    title = "The engine's speed with drafts ÷ without, paired by round"
    return figure_table(title, ("rows", "cold/off", "95%", "warm/off", "95%"), rows)


def words_about_serving(summary: Summary) -> list[str]:
    """Return what a reader of the figures must know, one sentence each."""
    return list(_words(summary))


def _words(summary: Summary) -> Iterator[str]:
    if summary["interrupted"]:
        yield "interrupted; the figures are of the rounds that were measured until then"
    if summary["resumed_rounds"]:
        yield f"{summary['resumed_rounds']} rounds were measured before an interruption"
    if summary["skipped"]:
        yield f"skipped, too long for the model's context: {', '.join(map(str, summary['skipped']))}"
    for name, reason in summary["failed"].items():
        yield f"failed: {name}: {reason}"
    for about in dict.fromkeys(figures["about"] for figures in summary["methods"].values()):
        names = [name for name, figures in summary["methods"].items() if about and figures["about"] == about]
        if names:
            yield f"{', '.join(names)}: {about}"
    for name, figures in summary["methods"].items():
        if figures["errors"]:
            yield f"ERROR: {figures['errors']} answers of {name} differ where rounding does not explain it"


def _ratio(ratio: dict[str, Any] | None) -> tuple[str, str]:
    return (NOTHING, NOTHING) if ratio is None else (times(ratio["median"]), interval(ratio["interval"]))

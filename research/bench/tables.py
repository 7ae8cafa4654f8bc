"""The tables and remarks of `python -m research.bench`: those of `lookahead bench`, and more."""

import re
from dataclasses import replace

from lookahead.bench.methods.registry import BASELINE
from lookahead.bench.report.table_maker import FigureTable, number, times
from lookahead.bench.report.tables import Summary, benchmark_tables, overall, words_about

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")


def research_tables(summary: Summary) -> list[FigureTable]:
    """Return all tables that a benchmark has figures for."""
    tables = benchmark_tables(summary)
    if summary["settings"]["batch_sizes"]:
        tables = [replace(table, title=table.title.replace(" prompts", " batches")) for table in tables]
    tables += [memory_table(summary), speed_grid(summary), acceptance_grid(summary)]
    return [table for table in tables if table.rows]


def research_words(summary: Summary) -> list[str]:
    """Return what a reader of the figures must know, one sentence each."""
    words = words_about(summary)
    for method, trial in summary["trials"].items():
        seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in trial["seconds"].items())
        words.append(f"{method} is {trial['chosen']}, the fastest on {trial['prompts']} prompts: {seconds}")
    return words


def memory_table(summary: Summary) -> FigureTable:
    """Return the peak memory of each method."""
    measured = summary["peak_memory"] or {"source": "", "mebibytes": {}}
    peaks = measured["mebibytes"]
    rows = tuple(
        (method, number(peak, decimals=0), number(peak - peaks[BASELINE], decimals=0))
        for method, peak in peaks.items()
    )
    headings = ("method", "peak MiB", "more than\ntransformers")
    return FigureTable(f"Peak memory: {measured['source']}", headings, rows)


def speed_grid(summary: Summary) -> FigureTable:
    """Return the decoding speedup by decoding and branch length."""
    cells = _cells(summary, "decode_speedup")
    shown = {cell: times(figure) for cell, figure in cells.items()}
    return _grid("Speedup in decoding, by decoding length and branch length", shown)


def acceptance_grid(summary: Summary) -> FigureTable:
    """Return the mean acceptance length by decoding and branch length."""
    cells = _cells(summary, "mean_acceptance_length")
    shown = {cell: number(figure) for cell, figure in cells.items()}
    return _grid("Mean acceptance length, by decoding length and branch length", shown)


def _cells(summary: Summary, name: str) -> dict[tuple[int, int], float | None]:
    matched = ((method, _GRID.fullmatch(method)) for method in summary["tokens_per_second"])
    return {
        (int(found[1]), int(found[2])): overall(summary, name, method) for method, found in matched if found
    }


def _grid(title: str, cells: dict[tuple[int, int], str]) -> FigureTable:
    lengths, depths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    rows = tuple((str(length), *(cells.get((length, depth), "-") for depth in depths)) for length in lengths)
    return FigureTable(title, ("decoding length", *(f"{depth} deep" for depth in depths)), rows)

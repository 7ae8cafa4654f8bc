"""A benchmark's figures as tables that fit a terminal of 80 columns, and what is to be said beside them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table

from lookahead.bench.methods.registry import BASELINE, NOISE
from lookahead.bench.report.figure_table import NOTHING, FigureTable, interval, number, times
from lookahead.bench.run.differences import Verdict

_GRID = re.compile(r"lookahead-(\d+)x(\d+)")


def tables_of(summary: dict[str, Any]) -> list[Table]:
    """All tables of a benchmark, for the terminal."""
    return [table.as_rich() for table in figure_tables(summary)]


def figure_tables(summary: dict[str, Any]) -> list[FigureTable]:
    """All tables that a benchmark has figures for."""
    tables = [
        method_table(summary),
        category_table(summary, "speedup", "Speedup end to end, by category", times),
        category_table(summary, "decode_speedup", "Speedup in decoding alone, by category", times),
        category_table(summary, "mean_acceptance_length", "Mean acceptance length, by category", number),
        *grid_tables(summary),
        latency_table(summary),
        difference_table(summary),
        memory_table(summary),
    ]
    return [table for table in tables if table.rows]


def method_table(summary: dict[str, Any]) -> FigureTable:
    """One line a method, over all prompts."""
    headings = (
        "method",
        "tokens/s",
        "speedup",
        "95%",
        "decoding\nspeedup",
        "over prompt\nlookup",
        "mean acc.\nlength",
    )
    rows = tuple(
        (
            method,
            number(_overall(summary, "tokens_per_second", method), decimals=1),
            times(_overall(summary, "speedup", method)),
            interval(_overall(summary, "speedup_interval", method)),
            times(_overall(summary, "decode_speedup", method)),
            times(_overall(summary, "speedup_over_prompt_lookup", method)),
            number(_overall(summary, "mean_acceptance_length", method)),
        )
        for method in summary["tokens_per_second"]
    )
    what = "batches" if summary.get("settings", {}).get("batch_sizes") else "prompts"
    title = f"All {summary['prompts']['overall']} {what}"
    return FigureTable(title, headings, rows).without_empty_columns()


def category_table(
    summary: dict[str, Any], name: str, title: str, show: Callable[[float | None], str]
) -> FigureTable:
    """One line a method, one column a category; no line where there is one category, or nothing to show."""
    prompts = summary["prompts"]["by_category"]
    headings = (
        "method",
        *(f"{category.replace('_', chr(10))}\n({prompts[category]})" for category in prompts),
    )
    rows = tuple(
        (method, *(show(of_method["by_category"][category]) for category in prompts))
        for method, of_method in summary[name].items()
        if method != BASELINE and any(of_method["by_category"].values())
    )
    return FigureTable(title, headings, rows if len(prompts) > 1 else ())


def grid_tables(summary: dict[str, Any]) -> list[FigureTable]:
    """Speedup and acceptance by decoding and branch length, where methods are called by them."""
    cells = dict(_grid_cells(summary))
    lengths, depths = (sorted({cell[place] for cell in cells}) for place in (0, 1))
    kinds: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        ("decode_speedup", "Speedup in decoding, by decoding length and branch length", times),
        ("mean_acceptance_length", "Mean acceptance length, by decoding length and branch length", number),
    )
    return [
        FigureTable(
            title,
            ("decoding length", *(f"{depth} deep" for depth in depths)),
            tuple(
                (str(length), *(show(_of_cell(summary, name, cells, length, depth)) for depth in depths))
                for length in lengths
            ),
        )
        for name, title, show in kinds
    ]


def latency_table(summary: dict[str, Any]) -> FigureTable:
    """Milliseconds until the first token, and before each later one: 0 for one that came with another."""
    headings = ("method", "first\np50 ms", "p90", "p99", "later\nmean ms", "p50", "p90", "p99")
    rows = tuple(
        (method, *_shown(latency["first_token_ms"], with_mean=False), *_shown(latency["token_ms"]))
        for method, latency in (summary.get("latency") or {}).items()
        if latency
    )
    return FigureTable("Waiting for the first token, and for each later one", headings, rows)


def difference_table(summary: dict[str, Any]) -> FigureTable:
    """How many answers are the baseline's, and what the others are."""
    found = summary.get("differences") or {}
    headings = ("method", "identical", "near ties", "ERRORS", "unjudged")
    rows = tuple(
        (
            method,
            _identical(summary, method),
            *(
                str(of_method.get(verdict.value, 0))
                for verdict in (Verdict.NEAR_TIE, Verdict.ERROR, Verdict.UNJUDGED)
            ),
        )
        for method, of_method in found.items()
    )
    return FigureTable("The text beside that of transformers", headings, rows)


def memory_table(summary: dict[str, Any]) -> FigureTable:
    """Peak memory by method."""
    measured = summary.get("peak_memory") or {}
    peaks = measured.get("mebibytes", {})
    rows = tuple(
        (method, number(peak, decimals=0), number(peak - peaks[BASELINE], decimals=0))
        for method, peak in peaks.items()
    )
    headings = ("method", "peak MiB", "more than\ntransformers")
    return FigureTable(f"Peak memory: {measured.get('source', '')}", headings, rows)


def words_about(summary: dict[str, Any]) -> list[str]:
    """Return what a reader of the figures has to know, a sentence each."""
    return list(_words(summary))


def _words(summary: dict[str, Any]) -> Iterator[str]:
    if summary["interrupted"]:
        yield "interrupted; this is what was measured"
    if summary.get("resumed_prompts"):
        yield (
            f"{summary['resumed_prompts']} prompts were measured before an interruption; memories were given "
            "their answers again, but not what had been learned about drafts and times"
        )
    if summary["skipped"]:
        yield f"skipped, too long for the model's context: {', '.join(map(str, summary['skipped']))}"
    for failure in summary.get("failed", ()):
        yield f"failed and left out: {failure['row_id']}, by {failure['method']}: {failure['error']}"
    for method, trial in summary.get("trials", {}).items():
        seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in trial["seconds"].items())
        yield f"{method} is {trial['chosen']}, the fastest on {trial['prompts']} prompts before: {seconds}"
    noise = summary.get("noise")
    if noise and noise["interval"]:
        yield (
            f"noise: {BASELINE} measured twice is {times(noise['speedup'])} of itself "
            f"(95%: {interval(noise['interval'])}), single prompts {number(noise['per_prompt_p5'])} to "
            f"{number(noise['per_prompt_p95'])}"
        )
    for method, found in summary.get("differences", {}).items():
        errors = found.get(Verdict.ERROR.value, 0)
        if errors and method != NOISE:
            yield f"ERROR: {errors} answers of {method} differ where the model was not in doubt"


def _shown(percentiles: dict[str, float] | None, *, with_mean: bool = True) -> list[str]:
    names = ("mean", "p50", "p90", "p99") if with_mean else ("p50", "p90", "p99")
    return [NOTHING if percentiles is None else number(percentiles[name], decimals=1) for name in names]


def _grid_cells(summary: dict[str, Any]) -> Iterator[tuple[tuple[int, int], str]]:
    for method in summary["tokens_per_second"]:
        matched = _GRID.fullmatch(method)
        if matched:
            yield (int(matched[1]), int(matched[2])), method


def _of_cell(
    summary: dict[str, Any], name: str, cells: dict[tuple[int, int], str], length: int, depth: int
) -> float | None:
    method = cells.get((length, depth))
    return None if method is None else _overall(summary, name, method)


def _overall(summary: dict[str, Any], name: str, method: str) -> Any:
    return summary[name][method]["overall"] if method in summary.get(name, {}) else None


def _identical(summary: dict[str, Any], method: str) -> str:
    if method not in summary["identical"]:
        return NOTHING
    return f"{summary['identical'][method]['overall']} of {summary['prompts']['overall']}"

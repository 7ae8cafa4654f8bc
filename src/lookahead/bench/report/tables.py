"""The tables of a benchmark, for a terminal of 80 columns and for Markdown, and the remarks beside them.

To add a table: write a function of the summary, and add a line to `TABLES`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lookahead.bench.methods.registry import BASELINE, NOISE
from lookahead.bench.report.table_maker import NOTHING, FigureTable, interval, number, times
from lookahead.bench.run.differences import Verdict

Summary = dict[str, Any]


def benchmark_tables(summary: Summary) -> list[FigureTable]:
    """Return all tables that a benchmark has figures for."""
    tables = (table_of(summary) for table_of in TABLES)
    return [table for table in tables if table.rows]


def method_table(summary: Summary) -> FigureTable:
    """Return one line per method, over all prompts."""
    headings = (
        "method",
        "tokens/s",
        "speedup",
        "95%",
        "decoding\nspeedup",
        "over\nprompt\nlookup",
        "mean acc.\nlength",
    )
    rows = tuple(
        (
            method,
            number(overall(summary, "tokens_per_second", method), decimals=1),
            times(overall(summary, "speedup", method)),
            interval(overall(summary, "speedup_interval", method)),
            times(overall(summary, "decode_speedup", method)),
            times(overall(summary, "speedup_over_prompt_lookup", method)),
            number(overall(summary, "mean_acceptance_length", method)),
        )
        for method in summary["tokens_per_second"]
    )
    what = "batches" if summary.get("settings", {}).get("batch_sizes") else "prompts"
    title = f"All {summary['prompts']['overall']} {what}"
    return FigureTable(title, headings, rows).without_empty_columns()


def category_table(
    summary: Summary, name: str, title: str, show: Callable[[float | None], str]
) -> FigureTable:
    """Return one line per method and one column per category; no lines for a single category."""
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


def latency_table(summary: Summary) -> FigureTable:
    """Return milliseconds to the first token, and before each later one: 0 if it came with another."""
    headings = ("method", "first\np50 ms", "p90", "p99", "later\nmean ms", "p50", "p90", "p99")
    rows = tuple(
        (method, *_shown(latency["first_token_ms"], with_mean=False), *_shown(latency["token_ms"]))
        for method, latency in (summary.get("latency") or {}).items()
        if latency
    )
    return FigureTable("Waiting for the first token, and for each later one", headings, rows)


def difference_table(summary: Summary) -> FigureTable:
    """Return how many answers equal the baseline's, and what the others are."""
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


def memory_table(summary: Summary) -> FigureTable:
    """Return the peak memory of each method."""
    measured = summary.get("peak_memory") or {}
    peaks = measured.get("mebibytes", {})
    rows = tuple(
        (method, number(peak, decimals=0), number(peak - peaks[BASELINE], decimals=0))
        for method, peak in peaks.items()
    )
    headings = ("method", "peak MiB", "more than\ntransformers")
    return FigureTable(f"Peak memory: {measured.get('source', '')}", headings, rows)


_BY_CATEGORY = (
    ("speedup", "Speedup end to end", times),
    ("decode_speedup", "Speedup in decoding alone", times),
    ("mean_acceptance_length", "Mean acceptance length", number),
)
TABLES: list[Callable[[Summary], FigureTable]] = [
    method_table,
    *(
        partial(category_table, name=name, title=f"{title}, by category", show=show)
        for name, title, show in _BY_CATEGORY
    ),
    latency_table,
    difference_table,
    memory_table,
]


def words_about(summary: Summary) -> list[str]:
    """Return what a reader of the figures must know, one sentence each."""
    return list(_words(summary))


def _words(summary: Summary) -> Iterator[str]:
    if summary["interrupted"]:
        yield "interrupted; the figures are of what was measured until then"
    if summary.get("resumed_prompts"):
        yield (
            f"{summary['resumed_prompts']} prompts were measured before an interruption; memories have their "
            "answers again, but not what was learned about drafts and step times"
        )
    if summary["skipped"]:
        yield f"skipped, too long for the model's context: {', '.join(map(str, summary['skipped']))}"
    for failure in summary.get("failed", ()):
        yield f"failed and left out: {failure['row_id']}, by {failure['method']}: {failure['error']}"
    for method, trial in summary.get("trials", {}).items():
        seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in trial["seconds"].items())
        yield f"{method} is {trial['chosen']}, the fastest on {trial['prompts']} prompts: {seconds}"
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
            yield f"ERROR: {errors} answers of {method} differ where rounding does not explain it"


def _shown(percentiles: dict[str, float] | None, *, with_mean: bool = True) -> list[str]:
    names = ("mean", "p50", "p90", "p99") if with_mean else ("p50", "p90", "p99")
    return [NOTHING if percentiles is None else number(percentiles[name], decimals=1) for name in names]


def overall(summary: Summary, name: str, method: str) -> Any:
    """Return a method's figure over all prompts; None if it has none."""
    return summary[name][method]["overall"] if method in summary.get(name, {}) else None


def _identical(summary: Summary, method: str) -> str:
    if method not in summary["identical"]:
        return NOTHING
    return f"{summary['identical'][method]['overall']} of {summary['prompts']['overall']}"

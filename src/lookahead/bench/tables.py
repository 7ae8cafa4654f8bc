"""A benchmark's figures as tables that fit a terminal of 80 columns."""

from typing import Any

from rich import box
from rich.table import Table

from lookahead.bench.methods import BASELINE

NOTHING = "-"


def method_table(summary: dict[str, Any]) -> Table:
    """One line a method, over all prompts."""
    table = compact_table(f"All {summary['prompts']['overall']} prompts", "method")
    for heading in (
        "tokens/s",
        "speedup",
        "decoding\nspeedup",
        "over prompt\nlookup",
        "mean acc.\nlength",
        "identical",
    ):
        table.add_column(heading, justify="right")
    for method in summary["tokens_per_second"]:
        table.add_row(
            method,
            number(_overall(summary, "tokens_per_second", method), decimals=1),
            times(_overall(summary, "speedup", method)),
            times(_overall(summary, "decode_speedup", method)),
            times(_overall(summary, "speedup_over_prompt_lookup", method)),
            number(_overall(summary, "mean_acceptance_length", method)),
            _identical(summary, method),
        )
    return table


def category_table(summary: dict[str, Any]) -> Table:
    """One line a category: each method's speedup end to end, in decoding alone, and its acceptance length."""
    table = compact_table("Speedup end to end, in decoding alone, mean acceptance length", "category")
    table.add_column("prompts", justify="right")
    others = [method for method in summary["tokens_per_second"] if method != BASELINE]
    for method in others:
        table.add_column(method, justify="right", no_wrap=True)
    for category, prompts in summary["prompts"]["by_category"].items():
        table.add_row(category, str(prompts), *(_figures(summary, method, category) for method in others))
    return table


def compact_table(title: str, first_column: str) -> Table:
    """An empty table with little between its columns."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first_column, no_wrap=True)
    return table


def times(figure: float | None) -> str:
    """A ratio: `1.55x`; a dash where there is none."""
    return NOTHING if figure is None else f"{figure:.2f}x"


def number(figure: float | None, *, decimals: int = 2) -> str:
    """A figure with so many decimals; a dash where there is none."""
    return NOTHING if figure is None else f"{figure:.{decimals}f}"


def _figures(summary: dict[str, Any], method: str, category: str) -> str:
    speedup, decode_speedup, acceptance = (
        summary[name][method]["by_category"][category]
        for name in ("speedup", "decode_speedup", "mean_acceptance_length")
    )
    return f"{times(speedup)} {times(decode_speedup)} {number(acceptance)}"


def _overall(summary: dict[str, Any], name: str, method: str) -> float | None:
    figure: float | None = summary[name][method]["overall"] if method in summary[name] else None
    return figure


def _identical(summary: dict[str, Any], method: str) -> str:
    if method not in summary["identical"]:
        return NOTHING
    return f"{summary['identical'][method]['overall']} of {summary['prompts']['overall']}"

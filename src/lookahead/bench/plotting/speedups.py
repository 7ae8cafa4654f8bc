"""A picture of a benchmark's speedups by category."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lookahead.bench.plotting.kit import INK, colours_of, headline, new_figure, save, tidy

_MAX_METHODS = 5
_CHARACTERS_PER_INCH = 11
_LEFT_OUT = ("transformers", "transformers-again")
_LABELS = {
    "lookahead-plain": "lookahead-plain (its step, no drafts)",
    "lookahead-reproducible": "lookahead-reproducible (no draft changes a bit)",
    "llma": "llma (a single branch)",
}
"""Labels of methods whose names need an explanation."""
_SIZED = re.compile(r"lookahead-\d")


def plot_speedups(report: dict[str, Any], path: Path) -> None:
    """Draw decoding speedups over `transformers`, a group of bars for each category.

    For batches, which have no decoding times, draw speedups end to end.

    Args:
        report: A report of `lookahead bench --json`.
        path: The picture; its suffix chooses the format (.svg, .png, .pdf).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    speedups, what = report["decode_speedup"], "decoding speed"
    in_batches = all(of_method["overall"] is None for of_method in speedups.values())
    if in_batches:
        speedups, what = report["speedup"], "speed end to end"
    methods = drawn_methods(speedups) or list(speedups)
    categories = ["overall", *report["prompts"]["by_category"]]
    categories = categories[1:] if in_batches or len(categories) == 2 else categories
    figure = new_figure(max(5.5, 1.5 + 0.3 * len(categories) * (len(methods) + 1)), 3.8)
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for offset, (method, colour) in enumerate(colours_of(methods).items()):
        figures = {"overall": speedups[method]["overall"], **speedups[method]["by_category"]}
        heights = [figures[category] or 0.0 for category in categories]
        lefts = [index + (offset - (len(methods) - 1) / 2) * width for index in range(len(categories))]
        bars = axes.bar(lefts, heights, width, label=_LABELS.get(method, method), color=colour)
        if method == "lookahead" or len(methods) == 1:
            axes.bar_label(bars, fmt="%.2fx", fontsize=8, padding=1, color=INK)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.annotate(
        "transformers",
        (1, 1),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK,
    )
    axes.set_xticks(range(len(categories)), [name.replace("_", " ") for name in categories])
    axes.set_ylabel(f"{what} ÷ transformers")
    tidy(axes)
    if len(methods) > 1:
        longest = 5 + max(len(_LABELS.get(method, method)) for method in methods)
        columns = max(1, min(len(methods), int(_CHARACTERS_PER_INCH * figure.get_figwidth()) // longest))
        below = (0, -0.1)
        axes.legend(frameon=False, fontsize=8.5, ncols=columns, loc="upper left", bbox_to_anchor=below)
    says = _headline_of_batches(speedups, categories) if in_batches else _headline(speedups, what)
    headline(figure, says, about_report(report))
    save(figure, path)


def drawn_methods(speedups: dict[str, Any]) -> list[str]:
    """Return the methods of a picture by category: at most five, the best known first.

    Lookahead with a fixed size is left out.
    """
    well_known = [name for name in ("prompt-lookup", "lookahead-plain") if name in speedups]
    others = [name for name in speedups if name not in (*_LEFT_OUT, *well_known, "lookahead")]
    others = [name for name in others if not _SIZED.match(name)]
    ours = ["lookahead"] if "lookahead" in speedups else []
    return [*well_known, *others[: _MAX_METHODS - len(well_known) - len(ours)], *ours]


def _headline(speedups: dict[str, Any], what: str) -> str:
    best = "lookahead" if "lookahead" in speedups else list(speedups)[-1]
    overall = speedups[best]["overall"]
    return f"{best}: {overall:.2f}x the {what} of transformers" if overall else f"{what} by method"


def _headline_of_batches(speedups: dict[str, Any], categories: Sequence[str]) -> str:
    best = "lookahead" if "lookahead" in speedups else list(speedups)[-1]
    figures = speedups[best]["by_category"]
    ends = dict.fromkeys((categories[0], categories[-1]))
    return f"{best}: " + ", ".join(f"{figures[category]:.2f}x in {category}" for category in ends)


def model_words(name: str) -> str:
    """Return a model's name without its folder."""
    return "SmolLM2-135M" if name == "embedded" else Path(name).name


def about_report(report: dict[str, Any]) -> str:
    """Return in one line what a benchmark measured."""
    environment, settings = report["environment"], report.get("settings", {})
    chosen = f"temperature {settings['temperature']}" if settings.get("temperature") else "greedy"
    device = environment.get("device", "cpu")
    threads = environment["threads"]
    where = f"{threads} CPU thread{'s' * (threads != 1)}" if device == "cpu" else device
    model = f"{model_words(environment['model'])}, {environment['dtype']}"
    calls = f"{report['prompts']['overall']} {'batches' if settings.get('batch_sizes') else 'prompts'}"
    return f"{calls}, {model}, {where}, {chosen}, memory {report['memory']}"

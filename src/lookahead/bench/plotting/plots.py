"""Pictures of figures: a benchmark's speedups by category, and whether drafts' probabilities are true.

`python -m lookahead.bench.plotting.plots REPORT.json PICTURE.svg` draws a recorded benchmark.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookahead.bench.plotting.plot_style import INK, SHADES, colours_of, headline, new_figure, save, tidy
from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_METHODS = 5
_CHARACTERS_AN_INCH = 11
_LEFT_OUT = ("transformers", "transformers-again")
_SAID = {
    "lookahead-plain": "lookahead-plain (its step, no drafts)",
    "lookahead-reproducible": "lookahead-reproducible (no draft changes a bit)",
    "llma": "llma (a single branch)",
}
"""What a method is called in a legend, where its name does not say enough."""
_SIZED = re.compile(r"lookahead-\d")


def plot_speedups(report: dict[str, Any], path: Path) -> None:
    """Draw decoding speedups over `transformers`, a group of bars for each category.

    Where nothing was decoded by itself (batches), speedups end to end.

    Args:
        report: as `lookahead bench --json` writes it.
        path: the picture; its ending says which format (.svg, .png, .pdf).

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
    for place, (method, colour) in enumerate(colours_of(methods).items()):
        figures = {"overall": speedups[method]["overall"], **speedups[method]["by_category"]}
        heights = [figures[category] or 0.0 for category in categories]
        lefts = [index + (place - (len(methods) - 1) / 2) * width for index in range(len(categories))]
        bars = axes.bar(lefts, heights, width, label=_SAID.get(method, method), color=colour)
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
        longest = 5 + max(len(_SAID.get(method, method)) for method in methods)
        columns = max(1, min(len(methods), int(_CHARACTERS_AN_INCH * figure.get_figwidth()) // longest))
        below = (0, -0.1)
        axes.legend(frameon=False, fontsize=8.5, ncols=columns, loc="upper left", bbox_to_anchor=below)
    says = _headline_of_batches(speedups, categories) if in_batches else _headline(speedups, what)
    headline(figure, says, about_report(report))
    save(figure, path)


def drawn_methods(speedups: dict[str, Any]) -> list[str]:
    """Return which methods a picture by category shows: the best known, not so many that none is seen.

    Sizes of Lookahead are not among them: they have pictures of their own.
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
    """Return a model's name as a reader knows it."""
    return "SmolLM2-135M" if name == "embedded" else Path(name).name


def about_report(report: dict[str, Any]) -> str:
    """Return what a benchmark is of, in a line."""
    environment, settings = report["environment"], report.get("settings", {})
    chosen = f"temperature {settings['temperature']}" if settings.get("temperature") else "greedy"
    device = environment.get("device", "cpu")
    threads = environment["threads"]
    where = f"{threads} CPU thread{'s' * (threads != 1)}" if device == "cpu" else device
    model = f"{model_words(environment['model'])}, {environment['dtype']}"
    calls = f"{report['prompts']['overall']} {'batches' if settings.get('batch_sizes') else 'prompts'}"
    return f"{calls}, {model}, {where}, {chosen}, memory {report['memory']}"


def plot_calibration(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a reliability diagram for each store: a token's predicted chance against how often it came.

    Args:
        rows: of a replay, as `lookahead replay --json` writes them; those without `calibration` are left out.
        path: the picture; its ending says which format (.svg, .png, .pdf).

    Raises:
        ConfigError: no row has calibration.
        MissingDependencyError: matplotlib is not installed.
    """
    judged = [row for row in rows if row["calibration"]]
    stores = list(dict.fromkeys(row["store"] for row in judged))
    if not stores:
        names = ", ".join(dict.fromkeys(row["store"] for row in rows))
        message = f"nothing to draw: no probabilities to judge in {names}; choose --store log or trie"
        raise ConfigError(message)
    figure = new_figure(1 + 3.6 * len(stores), 5)
    grid = figure.subplots(2, len(stores), squeeze=False, sharex=True, height_ratios=(3, 1))
    for store, (diagram, histogram) in zip(stores, zip(*grid, strict=True), strict=True):
        _draw_reliability(diagram, histogram, [row for row in judged if row["store"] == store])
        diagram.set_title(store, fontsize=10, loc="left")
    figure.suptitle(
        "On the dashed line a draft's probability is true",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
    grid[0][0].set_ylabel("observed: how often the token came")
    grid[1][0].set_ylabel("drafted tokens")
    save(figure, path)


def _draw_reliability(diagram: "Axes", histogram: "Axes", rows: Sequence[dict[str, Any]]) -> None:
    """Draw one store: a line for each size, and below how many tokens each point stands for."""
    diagram.plot([0, 1], [0, 1], color="#444444", linewidth=0.8, linestyle="--")
    for place, row in enumerate(rows):
        calibration = row["calibration"]
        shade = SHADES[place * (len(SHADES) - 1) // max(1, len(rows) - 1)]
        predicted, observed, counts = (
            [figures[name] for figures in calibration["bins"]] for name in ("predicted", "observed", "count")
        )
        label = f"{row['draft_tokens']} tokens, error {calibration['expected_calibration_error']:.3f}"
        diagram.plot(predicted, observed, marker="o", markersize=3, color=shade, label=label)
        histogram.plot(predicted, counts, marker="o", markersize=2, color=shade)
    diagram.legend(frameon=False, fontsize=8)
    histogram.set_yscale("log")
    histogram.set_xlabel("predicted chance, its parent accepted")
    for axes in (diagram, histogram):
        tidy(axes)


def main() -> None:
    """Draw the report named on the command line."""
    report_path, picture_path = map(Path, sys.argv[1:3])
    plot_speedups(json.loads(report_path.read_text()), picture_path)


if __name__ == "__main__":
    main()

"""Pictures of figures: a benchmark's speedups by category, and whether drafts' probabilities are true.

`python -m lookahead.bench.plots REPORT.json PICTURE.svg` draws a recorded benchmark.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookahead.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ENDINGS = (".svg", ".png", ".pdf")
SHADES = ("#a9c5f5", "#6f9fee", "#2f6fdd", "#17428f")
_COLOURS = {"prompt-lookup": "#b8bec7", "lookahead-plain": "#dfe3e8", "lookahead": "#2f6fdd"}


def plot_speedups(report: dict[str, Any], path: Path) -> None:
    """Draw decoding speedups over `transformers`, a group of bars for each category.

    Args:
        report: as `lookahead bench --json` writes it.
        path: the picture; its ending says which format (.svg, .png, .pdf).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(9, 3.6)
    speedups = report["decode_speedup"]
    methods = [name for name in _COLOURS if name in speedups]
    categories = ["overall", *report["prompts"]["by_category"]]
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        figures = speedups[method]
        heights = [figures["overall"], *(figures["by_category"][name] for name in categories[1:])]
        lefts = [index + (place - (len(methods) - 1) / 2) * width for index in range(len(categories))]
        bars = axes.bar(lefts, heights, width, label=method, color=_COLOURS[method])
        if method == "lookahead":
            axes.bar_label(bars, fmt="%.2fx", fontsize=8, padding=1)
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_xticks(range(len(categories)), [name.replace("_", " ") for name in categories])
    axes.set_ylabel("decoding speed ÷ transformers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    environment = report["environment"]
    axes.set_title(
        f"{report['prompts']['overall']} prompts, {environment['model']}, {environment['dtype']}, "
        f"{environment['threads']} threads, greedy, memory {report['memory']}",
        fontsize=9,
        loc="left",
    )
    figure.savefig(path)


def check_can_draw(path: Path) -> None:
    """Refuse what cannot become a picture, before anything is measured.

    Raises:
        ConfigError: the path's ending says no format that is known.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in _ENDINGS:
        message = f"the picture {path.name!r} ends in {path.suffix!r}; choose from {', '.join(_ENDINGS)}"
        raise ConfigError(message)
    new_figure(1, 1)


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
    grid[0][0].set_ylabel("observed: how often the token came")
    grid[1][0].set_ylabel("drafted tokens")
    figure.savefig(path)


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
        axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra, wanted for pictures alone
    except ImportError:
        message = "drawing needs matplotlib; install it with: pip install 'lookahead-llm[plot]'"
        raise MissingDependencyError(message) from None
    return Figure(figsize=(width, height), layout="constrained")


def main() -> None:
    """Draw the report named on the command line."""
    report_path, picture_path = map(Path, sys.argv[1:3])
    plot_speedups(json.loads(report_path.read_text()), picture_path)


if __name__ == "__main__":
    main()

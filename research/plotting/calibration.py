"""A picture of calibration: predicted against observed acceptance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookahead.bench.plotting.kit import INK, SHADES, new_figure, save, tidy
from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_calibration(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a reliability diagram for each store: a token's predicted probability against how often it came.

    Args:
        rows: The `results` of a replay; rows without `calibration` are left out.
        path: The picture; its suffix chooses the format (.svg, .png, .pdf).

    Raises:
        ConfigError: No row has calibration.
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
    """Draw one store: a line for each size, and below it the number of tokens at each point."""
    diagram.plot([0, 1], [0, 1], color="#444444", linewidth=0.8, linestyle="--")
    for index, row in enumerate(rows):
        calibration = row["calibration"]
        shade = SHADES[index * (len(SHADES) - 1) // max(1, len(rows) - 1)]
        predicted, observed, counts = (
            [figures[name] for figures in calibration["bins"]] for name in ("predicted", "observed", "count")
        )
        label = f"{row['draft_tokens']} tokens, error {calibration['expected_calibration_error']:.3f}"
        diagram.plot(predicted, observed, marker="o", markersize=3, color=shade, label=label)
        histogram.plot(predicted, counts, marker="o", markersize=2, color=shade)
    diagram.legend(frameon=False, fontsize=8)
    histogram.set_yscale("log")
    histogram.set_xlabel("predicted probability, parent accepted")
    for axes in (diagram, histogram):
        tidy(axes)

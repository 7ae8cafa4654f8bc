"""Heat maps: a figure for each pair of settings."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lookahead.bench.plotting.kit import INK, headline, new_figure, save, tidy


def draw_heat_map(
    path: Path,
    cells: Mapping[tuple[int, int], float],
    *,
    says: str,
    about: str,
    names: tuple[str, str],
    decimals: int = 2,
) -> None:
    """Draw a cell for each pair of settings, with its figure; the largest figure is bold.

    Args:
        path: The picture.
        cells: Figures by (line, column).
        says: The headline.
        about: What was measured.
        names: Names of the lines and of the columns.
        decimals: Decimals of the figures.
    """
    lines, columns = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    values = np.array([[cells.get((line, column), np.nan) for column in columns] for line in lines])
    figure = new_figure(1.6 + 0.95 * len(columns), 1.7 + 0.55 * len(lines))
    axes = figure.subplots()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.imshow(
        values, cmap="Blues", aspect="auto", vmin=low - 0.15 * (high - low), vmax=high, origin="lower"
    )
    best = np.unravel_index(np.nanargmax(values), values.shape)
    for (line, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = value > low + 0.6 * (high - low)
            weight = "bold" if (line, column) == best else "normal"
            colour = "white" if dark else INK
            axes.text(
                column, line, f"{value:.{decimals}f}", ha="center", va="center", color=colour, weight=weight
            )
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(lines)), [str(line) for line in lines])
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    tidy(axes)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    headline(figure, says, about)
    save(figure, path)

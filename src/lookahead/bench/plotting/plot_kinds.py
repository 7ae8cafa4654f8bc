"""The kinds of pictures that reports have: heat maps, curves, bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookahead.bench.plotting.plot_style import FAINT, INK, colours_of, headline, new_figure, save, tidy

Points = tuple[Sequence[float], Sequence[float]]


def draw_heat_map(
    path: Path,
    cells: Mapping[tuple[int, int], float],
    *,
    says: str,
    about: str,
    names: tuple[str, str],
    decimals: int = 2,
) -> None:
    """Draw a figure for each pair of settings, written in its cell; the largest is framed.

    Args:
        path: the picture.
        cells: by (line, column).
        says: the headline.
        about: what it is of.
        names: of lines and columns.
        decimals: of the figures.
    """
    lines, columns = (sorted({cell[place] for cell in cells}) for place in (0, 1))
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


def draw_curves(
    path: Path,
    curves: Mapping[str, Points],
    *,
    says: str,
    about: str,
    names: tuple[str, str],
    level: float | None = None,
    logarithmic: bool = False,
) -> None:
    """Draw curves, each called by its name at its end.

    Args:
        path: the picture.
        curves: by name, x and y.
        says: the headline.
        about: what it is of.
        names: of the axes, x first.
        level: where to draw a faint line across: 1 for "no gain".
        logarithmic: whether x goes in powers of two.
    """
    figure = new_figure(7, 3.9)
    axes = figure.subplots()
    for name, colour in colours_of(curves).items():
        x, y = curves[name]
        axes.plot(x, y, color=colour, linewidth=2, marker="o" if len(x) < 12 else None, markersize=4)
        if len(x):
            axes.annotate(
                name,
                (x[-1], y[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=9,
                annotation_clip=False,
            )
    if level is not None:
        axes.axhline(level, color=FAINT, linewidth=0.8)
    if logarithmic:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for of_curve, _ in curves.values() for x in of_curve})
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
        axes.minorticks_off()
    axes.margins(x=0.02)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    tidy(axes)
    axes.grid(axis="y", color="#e5e8eb", linewidth=0.6)
    axes.set_axisbelow(True)
    room_for_names = 0.015 + 0.0115 * max(map(len, curves), default=0)
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, 0, 1 - room_for_names, 1))
    headline(figure, says, about)
    save(figure, path)


def draw_bars(
    path: Path,
    bars: Mapping[str, float],
    *,
    says: str,
    about: str,
    name: str,
    references: Sequence[str] = (),
    digits: int = 2,
) -> None:
    """Draw a bar for each name, its figure written at its end.

    Args:
        path: the picture.
        bars: by name, from top to bottom.
        says: the headline.
        about: what it is of.
        name: of the axis.
        references: the bars with which the others are compared: they are of another colour.
        digits: behind the figures' points.
    """
    figure = new_figure(7, 1.3 + 0.34 * len(bars))
    axes = figure.subplots()
    colours = ["#0072b2" if label in references or not references else "#9fb8cf" for label in bars]
    drawn = axes.barh(list(bars), list(bars.values()), color=colours, height=0.7)
    axes.bar_label(drawn, fmt=f"%.{digits}f", padding=3, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel(name)
    axes.margins(x=0.1)
    tidy(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    headline(figure, says, about)
    save(figure, path)


def _short(value: float) -> str:
    """A size as people write it: 64, 1k, 4M."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if value >= size and value % size == 0:
            return f"{value // size:g}{unit}"
    return f"{value:g}"

"""The one plot kit: colours that colour-blind people can tell apart, figures, bars, curves."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lookahead.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[Sequence[float], Sequence[float]]

INK = "#24292f"
FAINT = "#8c959f"
_BACKGROUND = "#ffffff"  # not transparent: dark text would be lost on a page with a dark theme
SHADES = ("#a9c5f5", "#6f9fee", "#2f6fdd", "#17428f")
"""Shades of one colour, for sizes of the same thing."""
_CHARACTERS_PER_INCH = 15
"""Of the small text below a headline."""
ENDINGS = (".svg", ".png", ".pdf")

# The palette of Okabe and Ito, without its yellow, which is hard to see on white.
_BLUE, _ORANGE, _GREEN, _VERMILION, _PURPLE, _SKY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
)
_KNOWN = {
    "lookahead": _BLUE,
    "prompt-lookup": _ORANGE,
    "lookahead-plain": "#c5cbd3",
    "transformers-again": "#dfe3e8",
    "lookahead-fresh": _ORANGE,
    "log": _BLUE,
    "": _BLUE,
    "trie": _VERMILION,
}
_OTHERS = (_GREEN, _VERMILION, _PURPLE, _SKY, _ORANGE, "#5e4fa2", "#7f7f7f")


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name: a fixed one for known names, the others in turn."""
    named = list(names)
    taken = {_KNOWN[name] for name in named if name in _KNOWN}
    free = [colour for colour in _OTHERS if colour not in taken]
    unknown = [name for name in named if name not in _KNOWN]
    return {name: _KNOWN[name] if name in _KNOWN else free[unknown.index(name) % len(free)] for name in named}


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure; width and height in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra, needed for pictures only
    except ImportError:
        message = "drawing needs matplotlib; install it with: pip install 'lookahead-llm[plot]'"
        raise MissingDependencyError(message) from None
    return Figure(figsize=(width, height), layout="constrained", facecolor=_BACKGROUND)


def tidy(axes: "Axes") -> None:
    """Remove the frame's top and right, and grey the rest."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def headline(figure: "Figure", says: str, about: str) -> None:
    """Write the headline `says`, and below it in small type what was measured."""
    figure.suptitle(says, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    lines = wrap(about, int(_CHARACTERS_PER_INCH * figure.get_figwidth()))
    title = figure.axes[0].set_title("\n".join(lines), fontsize=8.5, loc="left", color="#57606a", pad=8)
    figure.draw_without_rendering()  # the layout is known only after this
    figure.set_layout_engine("none")  # keep it
    axes = figure.axes[0].get_position()
    title.set_x((0.012 - axes.x0) / axes.width)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as .svg, .png or .pdf, by its suffix. The same figure gives the same bytes."""
    dated = {"Date": None} if path.suffix == ".svg" else {}
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "lookahead"}):
        figure.savefig(path, dpi=160, metadata=dated)


def check_can_draw(path: Path) -> None:
    """Check, before anything is measured, that a picture can be written to a path.

    Raises:
        ConfigError: The suffix is not a known format.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in ENDINGS:
        message = f"the picture {path.name!r} ends in {path.suffix!r}; choose from {', '.join(ENDINGS)}"
        raise ConfigError(message)
    new_figure(1, 1)


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
    """Draw curves, each labelled at its end.

    Args:
        path: The picture.
        curves: x and y by name.
        says: The headline.
        about: What was measured.
        names: Names of the axes, x first.
        level: Height of a faint horizontal line, such as 1 for "no gain".
        logarithmic: Whether x is scaled in powers of two.
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
    """Draw a bar for each name, with its figure at the end.

    Args:
        path: The picture.
        bars: Figures by name, from top to bottom.
        says: The headline.
        about: What was measured.
        name: Name of the axis.
        references: Bars that the others are compared with, in another colour.
        digits: Digits after the decimal point.
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
    """Return a size as text: 64, 1k, 4M."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if value >= size and value % size == 0:
            return f"{value // size:g}{unit}"
    return f"{value:g}"

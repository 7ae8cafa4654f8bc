"""How pictures look: colours that colour-blind people tell apart, on a ground of their own for any theme."""

from collections.abc import Iterable
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from lookahead.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24292f"
FAINT = "#8c959f"
_GROUND = "#ffffff"  # not transparent: dark words on a page's dark theme would be lost
SHADES = ("#a9c5f5", "#6f9fee", "#2f6fdd", "#17428f")
"""Of one colour, for sizes of one thing."""
_LETTERS_AN_INCH = 15
"""Of what is written small below a headline."""
ENDINGS = (".svg", ".png", ".pdf")

# Okabe and Ito's palette, without its yellow, which is lost on white.
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
    """Return a colour for each name: always the same for well-known ones, the others in turn."""
    named = list(names)
    taken = {_KNOWN[name] for name in named if name in _KNOWN}
    free = [colour for colour in _OTHERS if colour not in taken]
    unknown = [name for name in named if name not in _KNOWN]
    return {name: _KNOWN[name] if name in _KNOWN else free[unknown.index(name) % len(free)] for name in named}


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra, wanted for pictures alone
    except ImportError:
        message = "drawing needs matplotlib; install it with: pip install 'lookahead-llm[plot]'"
        raise MissingDependencyError(message) from None
    return Figure(figsize=(width, height), layout="constrained", facecolor=_GROUND)


def tidy(axes: "Axes") -> None:
    """Leave away what says nothing, and keep the rest quiet."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def headline(figure: "Figure", says: str, about: str) -> None:
    """Write what the picture says, and small below it what it is of."""
    figure.suptitle(says, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    lines = wrap(about, int(_LETTERS_AN_INCH * figure.get_figwidth()))
    title = figure.axes[0].set_title("\n".join(lines), fontsize=8.5, loc="left", color="#57606a", pad=8)
    figure.draw_without_rendering()  # only now is it known how far from the edge the axes begin
    figure.set_layout_engine("none")  # it stays there
    place = figure.axes[0].get_position()
    title.set_x((0.012 - place.x0) / place.width)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure, the same bytes for the same figures.

    Its ending says which format (.svg, .png, .pdf).
    """
    dated = {"Date": None} if path.suffix == ".svg" else {}
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "lookahead"}):
        figure.savefig(path, dpi=160, metadata=dated)


def check_can_draw(path: Path) -> None:
    """Refuse what cannot become a picture, before anything is measured.

    Raises:
        ConfigError: the path's ending says no format that is known.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in ENDINGS:
        message = f"the picture {path.name!r} ends in {path.suffix!r}; choose from {', '.join(ENDINGS)}"
        raise ConfigError(message)
    new_figure(1, 1)

"""A table of figures, for the terminal and for Markdown alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.table import Table

NOTHING = "-"
_WIDEST_HEADING = 9
_WIDEST_NAME = 26


@dataclass(frozen=True)
class FigureTable:
    """A table whose first column is names, the others figures as text.

    Attributes:
        title: what it shows.
        headings: of the columns; a line break in one is kept in the terminal.
        rows: by line, the cells.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> "FigureTable":
        """Return it without the columns that have no figure in any line."""
        kept = [
            place
            for place in range(len(self.headings))
            if place == 0 or any(row[place] != NOTHING for row in self.rows)
        ]
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return FigureTable(self.title, tuple(self.headings[place] for place in kept), rows)

    def as_rich(self) -> Table:
        """Return it for the terminal."""
        table = _empty_table(self.title)
        table.add_column(self.headings[0], overflow="fold", min_width=12)
        for place, heading in enumerate(self.headings[1:], start=1):
            widest = max((len(row[place]) for row in self.rows), default=1)  # headings fold, figures do not
            table.add_column(_folded(heading), justify="right", min_width=widest)
        for row in self.rows:
            table.add_row("\n".join(wrap(row[0], _WIDEST_NAME)), *row[1:])
        return table

    def as_markdown(self) -> str:
        """Return it as Markdown, the title in bold above."""
        headings = " | ".join(heading.replace("-\n", "-").replace("\n", " ") for heading in self.headings)
        ruler = " | ".join(["---", *("---:" for _ in self.headings[1:])])
        lines = [f"| {headings} |", f"| {ruler} |", *(f"| {' | '.join(row)} |" for row in self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


def compact_table(title: str, first_column: str) -> Table:
    """An empty table with little between its columns."""
    table = _empty_table(title)
    table.add_column(first_column, no_wrap=True)
    return table


def _empty_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _folded(heading: str) -> str:
    lines = [line[start : start + _WIDEST_HEADING] for line in heading.split("\n") for start in _starts(line)]
    return "\n".join(lines)


def _starts(line: str) -> range:
    return range(0, max(1, len(line)), _WIDEST_HEADING)


def times(figure: float | None) -> str:
    """A ratio: `1.55x`; a dash where there is none."""
    return NOTHING if figure is None else f"{figure:.2f}x"


def number(figure: float | None, *, decimals: int = 2) -> str:
    """A figure with so many decimals; a dash where there is none."""
    return NOTHING if figure is None else f"{figure:.{decimals}f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Two bounds: `1.40-1.62`; a dash where there are none."""
    return NOTHING if bounds is None else f"{bounds[0]:.2f}-{bounds[1]:.2f}"

"""The one table maker: figures as text, rendered for a terminal of 80 columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.table import Table
from rich.text import Text

NOTHING = "-"
_MAX_HEADING = 9
_MAX_NAME = 26


@dataclass(frozen=True)
class FigureTable:
    """A table: names in the first column, figures in the others.

    Attributes:
        title: What the table shows.
        headings: One per column; the terminal keeps line breaks.
        rows: The cells of each line.
        folds: Whether the terminal folds long names and headings. If not, each stays on one line.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folds: bool = True

    def without_empty_columns(self) -> "FigureTable":
        """Return the table without the columns that have no figures."""
        kept = [
            column
            for column in range(len(self.headings))
            if column == 0 or any(row[column] != NOTHING for row in self.rows)
        ]
        rows = tuple(tuple(row[column] for column in kept) for row in self.rows)
        return FigureTable(self.title, tuple(self.headings[column] for column in kept), rows, self.folds)

    def as_rich(self) -> Table:
        """Return the table for the terminal; names that look like markup are shown as they are."""
        table = Table(
            title=self.title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
        )
        if self.folds:
            table.add_column(Text(self.headings[0]), overflow="fold", min_width=12)
        else:
            table.add_column(Text(self.headings[0]), no_wrap=True)
        for column, heading in enumerate(self.headings[1:], start=1):
            widest = max(
                (len(row[column]) for row in self.rows), default=1
            )  # only headings fold, not figures
            table.add_column(
                Text(_folded(heading) if self.folds else heading),
                justify="right",
                min_width=widest,
                overflow="fold",
            )
        for row in self.rows:
            name = "\n".join(wrap(row[0], _MAX_NAME)) if self.folds else row[0]
            table.add_row(*map(Text, (name, *row[1:])))
        return table


def figure_table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> FigureTable:
    """Return a table whose names and headings are not folded."""
    return FigureTable(title, tuple(headings), tuple(map(tuple, rows)), folds=False)


def _folded(heading: str) -> str:
    return "\n".join("\n".join(_pieces(line)) for line in heading.split("\n"))


def _pieces(line: str) -> list[str]:
    return [line[start : start + _MAX_HEADING] for start in range(0, max(1, len(line)), _MAX_HEADING)]


def times(ratio: float | None) -> str:
    """Return a ratio as `1.55x`; a dash for None."""
    return NOTHING if ratio is None else f"{ratio:.2f}x"


def number(figure: float | None, *, decimals: int = 2) -> str:
    """Return a number with so many decimals; a dash for None."""
    return NOTHING if figure is None else f"{figure:.{decimals}f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Return two bounds as `1.40-1.62`; a dash for None."""
    return NOTHING if bounds is None else f"{bounds[0]:.2f}-{bounds[1]:.2f}"

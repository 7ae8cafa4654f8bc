"""Read recorded runs, and format figures for documents."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lookahead.errors import NotFoundError

Report = dict[str, Any]
Read = Callable[[str], Report]
"""Returns a recorded run by the name of its file."""
Figures = dict[str, Callable[[Read], str]]
"""Functions that format figures of the records, by the name used in the document."""


def records_in(folder: Path) -> Read:
    """Return a function that reads the records of a folder.

    Raises:
        NotFoundError: When reading, if there is no such record.
    """

    def read(name: str) -> Report:
        try:
            report: Report = json.loads((folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            message = (
                f"there is no record {folder / name} ({error.strerror}); measure it with lookahead bench"
            )
            raise NotFoundError(message) from error
        return report

    return read


def figure_of(report: Report, name: str, method: str, category: str | None = None) -> float:
    """Return a method's figure, over all prompts or over one category."""
    of_method = report[name][method]
    figure: float = of_method["overall"] if category is None else of_method["by_category"][category]
    return figure


def replayed_figure(report: Report, variant: str, category: str | None = None) -> float:
    """Return a variant's mean acceptance length in an experiment by replay."""
    (found,) = (result for result in report["results"] if result["store"] == variant)
    figure: float = found["mean_acceptance_length"] if category is None else found["by_category"][category]
    return figure


def markdown_table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with a line break before and after it."""
    ruler = ["---" for _ in heading]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in (heading, ruler, *lines)) + "\n"

"""A report as a folder: Markdown with tables and pictures, and the figures as JSON."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookahead.bench.plotting.kit import check_can_draw
from lookahead.bench.plotting.pictures import Draw, pictures_of
from lookahead.bench.report.table_maker import FigureTable
from lookahead.bench.report.tables import benchmark_tables, words_about
from lookahead.errors import NotFoundError
from lookahead.files import atomic_write, write_json

REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
_FORMATS = (".svg", ".png")


def check_folder(folder: Path) -> None:
    """Make the report's folder, and check that it can be written to and that pictures can be drawn.

    Raises:
        NotFoundError: The folder cannot be made or written to.
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be made ({error.strerror}); give one that can be written to"
        raise NotFoundError(message) from error
    if not os.access(folder, os.W_OK):
        message = f"the folder {folder} cannot be written to; give another one"
        raise NotFoundError(message)
    check_can_draw(folder / "picture.svg")


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write a benchmark's report.

    Args:
        folder: An existing folder.
        report: The result of `summarise`, with date, command, settings and environment.
    """
    settings = report["settings"]
    measured = report["prompts"]["overall"]
    write_folder(
        folder,
        report,
        title=f"{settings['data']}: {settings.get('experiment', 'main')}",
        remarks=words_about(report),
        tables=benchmark_tables(report) if measured else [],
        pictures=pictures_of(report) if measured else {},
        about={**settings, **report["environment"]},
    )


def write_folder(
    folder: Path,
    report: dict[str, Any],
    *,
    title: str,
    remarks: Sequence[str],
    tables: Iterable[FigureTable],
    pictures: Mapping[str, Draw],
    about: Mapping[str, Any],
) -> None:
    """Write a report's Markdown, JSON and pictures.

    Args:
        folder: An existing folder.
        report: The figures, with the `command` that made them.
        title: The headline.
        remarks: What a reader must know, one sentence each.
        tables: The tables.
        pictures: How to draw each picture, by file name without suffix.
        about: What the figures were measured on, by name.
    """
    for name, draw in pictures.items():
        for suffix in _FORMATS:
            with atomic_write(folder / f"{name}{suffix}") as partial:
                draw(partial)
    parts = [f"# {title}", "```\n" + report["command"] + "\n```", *(f"- {remark}" for remark in remarks)]
    parts += [f"![{name}]({name}.svg)" for name in pictures]
    parts += [table.as_markdown() for table in tables]
    parts += ["## What it was measured on", _facts(about)]
    with atomic_write(folder / REPORT_MARKDOWN) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    write_json(folder / REPORT_JSON, report)


def _facts(about: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_as_text(value)} |" for name, value in about.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

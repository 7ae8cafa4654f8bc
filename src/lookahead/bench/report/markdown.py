"""A report that people read: Markdown with tables and pictures, and beside it the figures as JSON."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookahead.bench.plotting.pictures import Draw, pictures_of, replay_pictures_of
from lookahead.bench.plotting.plot_style import check_can_draw
from lookahead.bench.replay.tables import experiment_tables
from lookahead.bench.report.figure_table import FigureTable
from lookahead.bench.report.tables import figure_tables, words_about
from lookahead.errors import NotFoundError
from lookahead.files import atomic_write, write_json

REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
_FORMATS = (".svg", ".png")


def check_folder(folder: Path) -> None:
    """Make the report's folder, or say why that cannot be; and that pictures can be drawn.

    Raises:
        NotFoundError: the folder cannot be made or written to.
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
        folder: where to; it exists.
        report: what `summarise` returns, with date, command, settings and environment.
    """
    settings, environment = report["settings"], report["environment"]
    title = f"{settings['data']}: {settings.get('experiment', 'main')}"
    pictures = pictures_of(report) if report["prompts"]["overall"] else {}
    tables = figure_tables(report) if report["prompts"]["overall"] else []
    _write(folder, title, words_about(report), tables, pictures, report, {**settings, **environment})


def write_replay_report(folder: Path, report: dict[str, Any]) -> None:
    """Write a replayed experiment's report, as `lookahead replay --experiment` measures it."""
    about = {name: report[name] for name in ("data", "data_sha256", "traces", "seed")}
    title = f"{report['data']}, replayed: {report['experiment']}"
    words = [report["question"]]
    _write(
        folder,
        title,
        words,
        experiment_tables(report),
        replay_pictures_of(report),
        report,
        {**about, **report["environment"]},
    )


def _write(
    folder: Path,
    title: str,
    words: Sequence[str],
    tables: Iterable[FigureTable],
    pictures: Mapping[str, Draw],
    report: dict[str, Any],
    about: Mapping[str, Any],
) -> None:
    for name, draw in pictures.items():
        for ending in _FORMATS:
            with atomic_write(folder / f"{name}{ending}") as partial:
                draw(partial)
    parts = [f"# {title}", "```\n" + report["command"] + "\n```", *(f"- {said}" for said in words)]
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

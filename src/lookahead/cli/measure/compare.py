"""`lookahead compare`: is the difference between two reports of `lookahead bench` significant?"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.errors import DataFormatError, NotFoundError

First = Annotated[Path, typer.Argument(help="A report, from `lookahead bench --json`.", metavar="A.json")]
Second = Annotated[Path, typer.Argument(help="Another, on the same prompts.", metavar="B.json")]

_BASELINE = "transformers"
_FIGURES = ("tokens", "total_s", "decode_tokens", "steps")
_MAX_FIGURE = 1e15


def compare(first: First, second: Second) -> None:
    """Show what changed from report A to report B, and whether the change is significant.

    Speeds are relative to the `transformers` of each run, prompt by prompt.
    """
    from rich.console import Console

    from lookahead.bench.report.compare import (
        compare_reports,
        compared_table,
        different_settings,
        prompts_in_common,
    )

    ours, theirs = _read(first), _read(second)
    console = Console()
    compared = compare_reports(ours, theirs)
    console.print(compared_table(compared, prompts_in_common(ours, theirs)).as_rich())
    differing = different_settings(ours, theirs)
    if differing.rows:
        console.print()
        console.print(differing.as_rich())


def _read(path: Path) -> dict[str, Any]:
    from lookahead.bench.data.datasets import parsed_json

    try:
        report = parsed_json(path.read_bytes())
    except OSError as error:
        message = f"the report {path} cannot be read ({error.strerror}); give one from lookahead bench --json"
        raise NotFoundError(message) from error
    except ValueError as error:
        message = f"the report {path} is not JSON ({error}); give one from lookahead bench --json"
        raise DataFormatError(message) from error
    fault = _fault(report)
    if fault is not None:
        message = f"{path} is no report of lookahead bench: {fault}; give one from lookahead bench --json"
        raise DataFormatError(message)
    return dict(report)


def _fault(report: object) -> str | None:
    """Return what is missing or of another type, of what is compared; None if nothing is."""
    if not isinstance(report, dict):
        return f"it is not a JSON object but {report!r:.40}"
    for name, kind in (("settings", dict), ("environment", dict), ("per_prompt", list)):
        if not isinstance(report.get(name), kind):
            return f"{name!r} is {report.get(name)!r:.40}"
    methods = None
    for row in report["per_prompt"]:
        fault = _fault_of_prompt(row, methods)
        if fault is not None:
            return fault
        methods = row["runs"].keys()
    return None


def _fault_of_prompt(row: object, methods: Collection[str] | None) -> str | None:
    """Return what is wrong with a prompt's figures; `methods` are those of the prompt before it."""
    if not isinstance(row, dict) or not isinstance(row.get("runs"), dict):
        return f"a prompt is {row!r:.40}"
    for name, kind in (("category", str), ("id", str | int), ("prompt_tokens", int)):
        if not isinstance(row.get(name), kind):
            return f"{name!r} of a prompt is {row.get(name)!r:.40}"
    runs = row["runs"]
    if _BASELINE not in runs or (methods is not None and runs.keys() != methods):
        return f"prompt {row['id']!r:.40} has not the methods of the others, with {_BASELINE}"
    for run in runs.values():
        for name in _FIGURES:
            figure = run.get(name) if isinstance(run, dict) else None
            if not isinstance(figure, int | float) or not 0 <= figure < _MAX_FIGURE:
                return f"{name!r} of prompt {row['id']!r:.40} is {figure!r:.40}"
    return None

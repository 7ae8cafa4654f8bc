"""`lookahead compare`: is the difference between two reports of `lookahead bench` significant?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.errors import DataFormatError, NotFoundError

First = Annotated[Path, typer.Argument(help="A report, from `lookahead bench --json`.", metavar="A.json")]
Second = Annotated[Path, typer.Argument(help="Another, on the same prompts.", metavar="B.json")]


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
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"the report {path} cannot be read ({error.strerror}); give one from lookahead bench --json"
        raise NotFoundError(message) from error
    except ValueError as error:
        message = f"the report {path} is not JSON ({error}); give one from lookahead bench --json"
        raise DataFormatError(message) from error
    if not isinstance(report, dict):
        message = f"{path} is no report of lookahead bench; give one from lookahead bench --json"
        raise DataFormatError(message)
    return report

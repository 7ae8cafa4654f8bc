"""`python -m research.profile REPORT.json PICTURE`: draw a report of `lookahead profile --json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lookahead.cli.setup import check_can_write
from lookahead.errors import DataFormatError
from research.command import run_command
from research.plotting.kit import check_can_draw
from research.plotting.profile import plot_profile

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def profile(
    report: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A report of `lookahead profile --json`.")
    ],
    picture: Annotated[Path, typer.Argument(help="The picture: .svg, .png or .pdf.")],
) -> None:
    """Draw the cost of forward passes by size."""
    check_can_write(picture)
    check_can_draw(picture)
    content = report.read_text(encoding="utf-8")
    try:
        plot_profile(json.loads(content), picture)
    except (ValueError, TypeError, KeyError) as error:
        message = f"{report} is no report of lookahead profile; give one from lookahead profile --json"
        raise DataFormatError(message) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(app, arguments)


if __name__ == "__main__":
    main()

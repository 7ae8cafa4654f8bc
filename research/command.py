"""Run a command of research as `lookahead` runs its own."""

import sys
from collections.abc import Sequence

import typer

from lookahead.cli.setup import notices
from lookahead.errors import LookaheadError


def run_command(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command; Lookahead's own errors become one line on stderr and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments))
    except LookaheadError as error:
        notices.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)

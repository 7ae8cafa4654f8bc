"""The command `lookahead`: one file per command. Importing this imports no torch."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

import lookahead
from lookahead.cli.check import check
from lookahead.cli.compile import compile_kernels
from lookahead.cli.demo import demo
from lookahead.cli.generate import generate
from lookahead.cli.measure.bench import bench
from lookahead.cli.measure.compare import compare
from lookahead.cli.measure.profile import profile
from lookahead.cli.measure.replay import replay
from lookahead.cli.memory import memory
from lookahead.errors import LookaheadError

app = typer.Typer(
    name="lookahead",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(generate)
app.command()(bench)
app.command()(compare)
app.command()(replay)
app.command()(check)
app.command()(profile)
app.command(name="compile")(compile_kernels)
app.add_typer(memory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of Lookahead become one line on stderr and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments))
    except LookaheadError as error:
        message = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(
            f"error: {message}", style="red", markup=False, highlight=False
        )
        sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lookahead {lookahead.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Lossless acceleration of LLM inference: several tokens per forward pass, the same output.

    Try `lookahead demo` first. `lookahead compile` compiles the kernels ahead of time, once per installation;
    otherwise the first use compiles them.
    """

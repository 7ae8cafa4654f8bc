"""The command `lookahead`: one file per command. Importing this imports no torch."""

import contextlib
import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

import lookahead
from lookahead.cli.check import check
from lookahead.cli.compile import compile_kernels
from lookahead.cli.demo.command import demo
from lookahead.cli.generate import generate
from lookahead.cli.measure.bench import bench
from lookahead.cli.measure.compare import compare
from lookahead.cli.measure.profile import profile
from lookahead.cli.measure.replay import replay
from lookahead.cli.memory import memory
from lookahead.cli.serve import serve
from lookahead.cli.setup import INTERRUPTED
from lookahead.cli.streams import abandon_stdout, flush_stdout, prepare_streams
from lookahead.errors import LookaheadError, first_line

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch's errors say, on every device."""

app = typer.Typer(
    name="lookahead",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(generate)
app.command()(serve)
app.command()(bench)
app.command()(compare)
app.command()(replay)
app.command()(check)
app.command()(profile)
app.command(name="compile")(compile_kernels)
app.add_typer(memory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error is one line on stderr.

    The exit code is 2 for what the caller can mend (a `LookaheadError`, as for a wrong option), 1 for what
    the machine refuses (a full disk, no memory) or a reader that went away, 130 after Ctrl-C.
    """
    sys.exit(_exit_code_of(None if arguments is None else list(arguments)))


def _exit_code_of(arguments: list[str] | None) -> int:
    try:
        prepare_streams()
        try:
            app(args=arguments)
        except SystemExit as end:
            flush_stdout()
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except LookaheadError as error:
        _print_error(str(error))
        return 2
    except BrokenPipeError:  # the reader has read enough, as `head` does
        abandon_stdout()
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        message = _what_failed(error)
        if message is None:
            raise
        abandon_stdout()
        _print_error(message)
        return 1
    return 0


def _what_failed(error: OSError | MemoryError | RuntimeError) -> str | None:
    """Return what the machine refused, in words; None if the error is one of the program."""
    if not isinstance(error, OSError):
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return f"there is not enough memory ({first_line(error)}); give a smaller model, input or number"
        return None
    if error.errno == errno.ENOSPC:
        what = "stdout or a temporary file" if error.filename is None else error.filename
        return f"no space is left on the device of {what}; free some, or write elsewhere"
    return str(error)


def _print_error(message: str) -> None:
    line = f"error: {' '.join(message.split())}"
    with contextlib.suppress(OSError):  # stderr may be full or closed, too; the exit code says enough
        Console(stderr=True, soft_wrap=True).print(line, style="red", markup=False, highlight=False)


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

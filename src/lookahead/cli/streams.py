"""The standard streams of the process: closed, full, or of an encoding that lacks a character."""

import contextlib
import io
import os
import sys

from lookahead.errors import ConfigError

BYTE_ORDER_MARK = "\ufeff"


def prepare_streams() -> None:
    r"""Make stdout and stderr able to show every character, and keep the numbers of closed streams taken.

    A character that the encoding lacks is shown as its escape (`\u2026`), so that nothing is lost. A file
    that was opened under the number of a closed stream would receive what C libraries print.

    Raises:
        OSError: stdout is closed: what the command prints would be lost.
    """
    is_stdout_closed = sys.stdout is None
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if is_stdout_closed:
        message = "stdout is closed; send it to a file, or to /dev/null if nobody reads it"
        raise OSError(message)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_stdout() -> None:
    """Write what is left of stdout.

    Raises:
        OSError: It cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon_stdout() -> None:
    """Send the rest of stdout nowhere, so that Python does not fail once more when it exits."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or a test's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_stdin() -> str:
    """Return all of stdin, as UTF-8 in every locale.

    Raises:
        ConfigError: It is closed, or not UTF-8 text.
    """
    if sys.stdin is None:
        message = "stdin is closed; give the prompt as an argument, with --file, or on stdin"
        raise ConfigError(message)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    try:
        return sys.stdin.read().removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        message = f"stdin is not UTF-8 text ({error}); give the prompt in UTF-8"
        raise ConfigError(message) from error


def as_text(argument: str) -> str:
    """Return a text of the command line, as UTF-8 in every locale.

    Raises:
        ConfigError: It is not UTF-8 text.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:  # Python keeps the bytes that the locale does not know as lone surrogates
        try:
            return os.fsencode(argument).decode()
        except ValueError as error:
            message = f"an argument is not UTF-8 text ({error}); give it in UTF-8"
            raise ConfigError(message) from error
    return argument

"""The command line on odd streams and locales: one line on stderr, the right exit code, nothing lost."""

import os
import subprocess
import sys

import pytest

from lookahead.cli import main
from lookahead.cli.streams import as_text
from lookahead.errors import ConfigError

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


def shell(line, *, stdin=b"", **environment):
    """Run a line of a shell in which $LA is the command; return exit code, stdout and stderr."""
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", line],
        input=stdin,
        env={**os.environ, "LA": f"{sys.executable} -m lookahead", **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def is_one_line(stderr):
    return stderr.startswith("error: ") and stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_a_full_disk_behind_stdout_is_said_and_fails(arguments):
    code, _, stderr = shell(f"$LA {arguments} > /dev/full")
    assert code == 1
    assert is_one_line(stderr)
    assert "no space is left" in stderr


def test_a_full_disk_behind_both_streams_still_fails():
    assert shell("$LA --version > /dev/full 2> /dev/full")[0] == 1


def test_a_closed_stdout_is_refused_before_anything_is_done():
    code, _, stderr = shell("$LA --version >&-")
    assert code == 1
    assert is_one_line(stderr)
    assert "stdout is closed" in stderr


def test_without_stderr_the_command_works():
    assert shell("$LA --version 2>&-")[:2] == (0, shell("$LA --version")[1])


def test_a_file_never_gets_the_number_of_a_closed_stream():
    program = (
        "import os; from lookahead.cli.streams import prepare_streams; prepare_streams(); "
        "print(os.open(os.devnull, os.O_RDONLY) > 2)"
    )
    assert shell(f'{sys.executable} -c "{program}" <&- 2>&-')[1] == b"True\n"


def test_a_reader_that_goes_away_ends_the_command_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lookahead", "--version"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)  # noqa: S603
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("line", "stdin", "said"),
    [
        ("$LA generate <&-", b"", "stdin is closed"),
        ("$LA generate", b"\xff\xfe", "stdin is not UTF-8 text"),
        ("$LA generate", b"", "the prompt is empty"),
        ("$LA generate", b"\xef\xbb\xbf \n", "the prompt is empty"),  # a byte order mark is no prompt
        ("$LA generate $(printf '\\377')", b"", "not UTF-8 text"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(line, stdin, said):
    code, stdout, stderr = shell(line, stdin=stdin)
    assert (code, stdout) == (2, b"")
    assert is_one_line(stderr)
    assert said in stderr


def test_a_prompt_in_utf8_is_one_in_every_locale():
    assert as_text(os.fsdecode("Grüße".encode())) == "Grüße"
    # In this locale Python would refuse the bytes, or keep them as surrogates that no tokenizer takes.
    program = (
        "import sys; from lookahead.cli.generate import _read_prompt; "
        "print(ascii(_read_prompt(*sys.argv[1:] or [None], None)))"
    )
    for argument, stdin in (("$(printf '\\303\\251')", b""), ("", b"\xc3\xa9")):
        code, stdout, _ = shell(f'{sys.executable} -c "{program}" {argument}', stdin=stdin, **ASCII)
        assert (code, stdout) == (0, b"'\\xe9'\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        as_text("\udcff")


def test_what_an_ascii_locale_cannot_show_is_escaped():
    program = "from lookahead.cli.streams import prepare_streams; prepare_streams(); print(chr(247))"
    assert shell(f'{sys.executable} -c "{program}"', **ASCII) == (0, rb"\xf7" + b"\n", "")
    code, _, stderr = shell("$LA memory warm $(printf '\\377\\303\\251').jsonl --memory any", **ASCII)
    assert code == 2
    assert is_one_line(stderr)


def interrupts(*_arguments):
    raise KeyboardInterrupt


def is_full(*_arguments):
    raise OSError(28, "No space left on device", "some/file")


def has_no_memory(*_arguments):
    message = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
    raise RuntimeError(message)


def is_wrong(*_arguments):
    message = "an error of the program"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (interrupts, 130, ""),
        (is_full, 1, "some/file"),
        (has_no_memory, 1, "not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line(what, code, said, monkeypatch, capsys):
    monkeypatch.setattr("lookahead.bench.data.texts.read_whole", what)
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--file", "any"])
    stderr = capsys.readouterr().err
    assert ended.value.code == code
    assert said in stderr
    assert stderr == "" or is_one_line(stderr)


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("lookahead.bench.data.texts.read_whole", is_wrong)
    with pytest.raises(RuntimeError, match="an error of the program"):
        main(["generate", "--file", "any"])

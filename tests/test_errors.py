"""The first line of an error's message."""

import pytest

from lookahead.errors import first_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such file\nand much more"), "no such file"),
        (ValueError("\n  padded  \n"), "padded"),
        (KeyError(), "KeyError"),
        (MemoryError(" \n"), "MemoryError"),
    ],
)
def test_the_first_line_of_an_error_or_its_type(error, expected):
    assert first_line(error) == expected

"""Read texts to warm a memory with: whole files, or the answers of rows and recorded traces."""

from pathlib import Path
from typing import Any

import numpy as np

from lookahead.bench.data.datasets import read_objects
from lookahead.drafting.arrays import Int32Array
from lookahead.errors import DataFormatError, NotFoundError

ANSWER_FIELDS = ("output_ids", "answer", "reference")
"""Fields that hold answers; the first one that a row has is used. Questions (`turns`) are not answers."""

Text = str | Int32Array


def read_texts(path: Path, field: str | None = None) -> list[Text]:
    """Return the texts of a file, in its order.

    Args:
        path: Rows as `.jsonl` or `.jsonl.gz`; any other file is one text, in UTF-8.
        field: Field of a row that holds a text, a list of texts or a list of token ids. By default the first
            of `ANSWER_FIELDS` that the row has.

    Raises:
        NotFoundError: The file cannot be read.
        DataFormatError: The file is malformed; the message names file and line.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return [read_whole(path, ".txt, .jsonl or .jsonl.gz files")]
    wanted = ANSWER_FIELDS if field is None else (field,)
    expected = f'expected a JSON object such as {{"{wanted[-1]}": "a text"}}'
    rows = read_objects(path, lambda row: _texts_of(row, wanted), expected)
    return [text for row in rows for text in row]


def read_whole(path: Path, accepted: str) -> str:
    """Return the content of a text file, without a byte order mark; `accepted` is for error messages.

    Raises:
        NotFoundError: The file cannot be read.
        DataFormatError: The file is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        message = f"the file {path} cannot be read ({error.strerror}); give {accepted}"
        raise NotFoundError(message) from error
    except UnicodeDecodeError as error:
        message = f"the file {path} is not UTF-8 text ({error}); give {accepted}"
        raise DataFormatError(message) from error


def _texts_of(row: dict[str, Any], wanted: tuple[str, ...]) -> list[Text] | str:
    """Return the texts of a row, or what is wrong with it."""
    name = next((name for name in wanted if name in row), None)
    if name is None:
        return f"it has no field {' or '.join(map(repr, wanted))} (choose one with --field)"
    value = row[name]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return list(value)
    if isinstance(value, list) and all(type(token) is int and 0 <= token < 2**31 for token in value):
        return [np.array(value, np.int32)]
    if isinstance(value, list) and not any(isinstance(item, str) for item in value):
        value = next((item for item in value if type(item) is not int or not 0 <= item < 2**31), value)
    return f"{name!r} must be a text, a list of texts or a list of token ids, not {value!r:.40}"

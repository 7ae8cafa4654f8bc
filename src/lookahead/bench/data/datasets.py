"""Read benchmark rows, and choose an equal share of each category."""

import gzip
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from lookahead.bench.data.row_formats import in_our_form
from lookahead.errors import ConfigError, DataFormatError, NotFoundError

DATA_VARIABLE = "LOOKAHEAD_DATA"
"""Names a folder in which data sets are looked for, too."""
MT_BENCH = "mt_bench"
MT_BENCH_CATEGORIES = frozenset(
    {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
)

RANDOM_WORDS = "random-words"
_RANDOM_WORDS = 60

Record = TypeVar("Record")

_EXPECTED = (
    'expected a JSON object such as {"id": 1, "category": "qa", "turns": ["the user\'s message"]}, or a '
    "line of Spec-Bench, GSM8K, HumanEval or Dolly as they are published"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prompt of a data set.

    Attributes:
        row_id: Its `id` in the file.
        category: Its category in the report; MT-bench's eight small categories are one.
        prompt: The user's first message.
        reference: The answer in the data set, if it has one.
    """

    row_id: str | int
    category: str
    prompt: str
    reference: str | None = None


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a `.jsonl` or `.jsonl.gz` file, in order; empty lines are skipped.

    A line is in our format or in one of `row_formats`.

    Raises:
        NotFoundError: The file does not exist.
        DataFormatError: A line is malformed, or there is none; the message names file and line.
    """
    line_numbers = count()

    def convert(parsed: dict[str, Any]) -> Row | str:
        line = in_our_form(parsed, next(line_numbers))
        return line if isinstance(line, str) else _fault(line) or _row(line)

    return read_objects(path, convert, _EXPECTED)


def read_records(
    path: Path, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> list[Record]:
    """Return the records of a `.jsonl` or `.jsonl.gz` file, in order; empty lines are skipped.

    Args:
        path: The file; each line is a JSON object with an `id` and a `category`.
        convert: Returns the record of a parsed line, or what is wrong with it.
        expected: Description of a correct line, for the error message.

    Raises:
        NotFoundError: The file does not exist.
        DataFormatError: A line is malformed, or there is none; the message names file and line.
    """
    return read_objects(path, lambda parsed: _fault(parsed) or convert(parsed), expected)


def read_objects(
    path: Path, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> list[Record]:
    """Return the records of a file as `read_records` does, but `id` and `category` are optional.

    Raises:
        NotFoundError: The file does not exist.
        DataFormatError: A line is malformed, or there is none; the message names file and line.
    """
    if not path.is_file():
        message = (
            f"there is no file {path}, nor one of that name in the folder that {DATA_VARIABLE} names; give a "
            f".jsonl or .jsonl.gz file, {expected} a line"
        )
        raise NotFoundError(message)
    records = []
    try:
        with _open(path) as file:
            for number, line in _lines(file, path):
                if line.strip():
                    records.append(_parse(line, f"{path}, line {number}", convert, expected))
    except OSError as error:
        message = f"the file {path} cannot be read ({error.strerror}); give a .jsonl or .jsonl.gz file"
        raise NotFoundError(message) from error
    if not records:
        message = f"{path} has no rows; {expected} a line"
        raise DataFormatError(message)
    return records


def category_in_report(category: str) -> str:
    """Return the category in the report: MT-bench's eight small categories are one."""
    return MT_BENCH if category in MT_BENCH_CATEGORIES else category


def limit_rows(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """Return at most `limit` rows in the order of `rows`, an equal share of each category; None returns all.

    Rows of a category are taken at even distances, so the choice is deterministic and covers the whole
    category (all eight parts of MT-bench, for example).

    Raises:
        ConfigError: The limit is below 1.
    """
    if limit is None:
        return list(rows)
    if limit < 1:
        message = f"limit={limit} is not allowed; give at least 1, or leave it out to take every row"
        raise ConfigError(message)
    positions: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        positions[row.category].append(position)
    shares = _equal_shares({category: len(of_it) for category, of_it in positions.items()}, limit)
    chosen = [
        of_it[index * len(of_it) // shares[category]]
        for category, of_it in positions.items()
        for index in range(shares[category])
    ]
    return [rows[position] for position in sorted(chosen)]


def _equal_shares(sizes: dict[str, int], limit: int) -> dict[str, int]:
    """Return the number of rows per category: one each in turn, until the limit or the last row."""
    shares = dict.fromkeys(sizes, 0)
    left = min(limit, sum(sizes.values()))
    while left:
        for category, size in sizes.items():
            if left and shares[category] < size:
                shares[category] += 1
                left -= 1
    return shares


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"{path}, after line {number}: not a whole gzip file ({error})"
        raise DataFormatError(message) from error


def parsed_json(data: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is malformed, not UTF-8, nested too deep, gives a field twice, or has a character that
            is no text (half of a surrogate pair).
    """
    try:
        parsed = json.loads(data, object_pairs_hook=_fields)
        if b"\\ud" in data.lower():
            json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        message = "nested too deep"
        raise ValueError(message) from None
    except UnicodeEncodeError as error:
        message = f"it has half of a surrogate pair, {error.object[error.start]!a}, which is no character"
        raise ValueError(message) from None
    return parsed


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"it gives {twice!r} twice"
        raise ValueError(message)
    return fields


def _parse(
    line: bytes, where: str, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> Record:
    try:
        parsed = parsed_json(line)
    except ValueError as error:
        message = f"{where}: not JSON ({error}); {expected}"
        raise DataFormatError(message) from error
    converted = (
        convert(parsed) if isinstance(parsed, dict) else f"a JSON object is wanted, not {parsed!r:.40}"
    )
    if isinstance(converted, str):
        message = f"{where}: {converted}; {expected}"
        raise DataFormatError(message)
    return converted


def _fault(parsed: dict[str, Any]) -> str | None:
    """Return what is wrong with the fields of every line, or None."""
    row_id, category = parsed.get("id"), parsed.get("category")
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        return f"'id' must be a string or an integer, not {row_id!r:.40}"
    if not isinstance(category, str) or not category:
        return f"'category' must be a non-empty string, not {category!r:.40}"
    return None


def _row(parsed: dict[str, Any]) -> Row | str:
    turns = parsed.get("turns")
    if not isinstance(turns, list) or not turns:
        return f"'turns' must be a non-empty list of strings, not {turns!r:.40}"
    if not all(isinstance(turn, str) for turn in turns) or not turns[0].strip():
        return "'turns' must hold strings, the first of them not empty"
    reference = parsed.get("reference")
    return Row(
        row_id=parsed["id"],
        category=category_in_report(parsed["category"]),
        prompt=turns[0],
        reference=reference if isinstance(reference, str) and reference else None,
    )


def random_rows(words: Sequence[str], number: int, seed: int = 0) -> list[Row]:
    """Return rows with prompts of random words, so that nothing in a prompt or an answer repeats itself."""
    drawn = np.random.default_rng(seed).choice(np.array(words, dtype=object), (number, _RANDOM_WORDS))
    return [
        Row(row_id=index, category=RANDOM_WORDS, prompt=" ".join(prompt))
        for index, prompt in enumerate(drawn)
    ]


def find_data(path: Path) -> Path:
    """Return the path of a data file; the given path if the file is in neither place."""
    folder = os.environ.get(DATA_VARIABLE)
    if path.exists() or not folder:
        return path
    beside = Path(folder) / path
    return beside if beside.is_file() else path

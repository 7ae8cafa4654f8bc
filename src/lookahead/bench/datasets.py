"""Reading benchmark rows, and choosing an equal share of each category."""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lookahead.errors import ConfigError, DataFormatError, NotFoundError

MT_BENCH = "mt_bench"
MT_BENCH_CATEGORIES = frozenset(
    {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
)

_EXPECTED = 'expected a JSON object such as {"id": 1, "category": "qa", "turns": ["the user\'s message"]}'


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prompt of a data set.

    Attributes:
        row_id: its `id` in the file.
        category: its category in the report: MT-bench's eight small ones are one.
        prompt: the user's first message.
    """

    row_id: str | int
    category: str
    prompt: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.jsonl` or `.jsonl.gz` file, in the file's order; empty lines are passed over.

    Raises:
        NotFoundError: there is no such file.
        DataFormatError: a line is not as it should be, or there is none; the message names file and line.
    """
    if not path.is_file():
        message = f"there is no file {path}; give a .jsonl or .jsonl.gz file, {_EXPECTED} a line"
        raise NotFoundError(message)
    with _open(path) as file:
        rows = [_parse(line, f"{path}, line {number}") for number, line in _lines(file, path) if line.strip()]
    if not rows:
        message = f"{path} has no rows; {_EXPECTED} a line"
        raise DataFormatError(message)
    return rows


def limit_rows(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows, as equal a share of each category as there is, in the order of `rows`.

    Within a category they are taken at even distances, so that the choice is the same every time and covers
    it from end to end (all eight parts of MT-bench, for one). None takes all.

    Raises:
        ConfigError: the limit is below 1.
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
    """How many of each category: one each in turn, until the limit is reached or nothing is left."""
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


def _parse(line: bytes, place: str) -> Row:
    try:
        record = json.loads(line)
    except ValueError as error:  # malformed JSON, or not UTF-8
        message = f"{place}: not JSON ({error}); {_EXPECTED}"
        raise DataFormatError(message) from error
    fault = _fault(record)
    if fault:
        message = f"{place}: {fault}; {_EXPECTED}"
        raise DataFormatError(message)
    category = record["category"]
    return Row(
        row_id=record["id"],
        category=MT_BENCH if category in MT_BENCH_CATEGORIES else category,
        prompt=record["turns"][0],
    )


def _fault(record: Any) -> str | None:
    """What is wrong with a parsed line, or None."""
    if not isinstance(record, dict):
        return f"a JSON object is wanted, not {record!r:.40}"
    row_id, category, turns = record.get("id"), record.get("category"), record.get("turns")
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        return f"'id' must be a string or an integer, not {row_id!r:.40}"
    if not isinstance(category, str) or not category:
        return f"'category' must be a non-empty string, not {category!r:.40}"
    if not isinstance(turns, list) or not turns:
        return f"'turns' must be a non-empty list of strings, not {turns!r:.40}"
    if not all(isinstance(turn, str) for turn in turns) or not turns[0].strip():
        return "'turns' must hold strings, the first of them not empty"
    return None

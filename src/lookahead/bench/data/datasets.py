"""Reading benchmark rows, and choosing an equal share of each category."""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from lookahead.bench.data.folder import DATA_VARIABLE
from lookahead.bench.data.row_formats import in_our_form
from lookahead.errors import ConfigError, DataFormatError, NotFoundError

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
        row_id: its `id` in the file.
        category: its category in the report: MT-bench's eight small ones are one.
        prompt: the user's first message.
        reference: the answer that the data set gives, if it does.
    """

    row_id: str | int
    category: str
    prompt: str
    reference: str | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.jsonl` or `.jsonl.gz` file, in the file's order; empty lines are passed over.

    Each line is in our form or in one of `row_formats`.

    Raises:
        NotFoundError: there is no such file.
        DataFormatError: a line is not as it should be, or there is none; the message names file and line.
    """
    places = count()

    def convert(parsed: dict[str, Any]) -> Row | str:
        line = in_our_form(parsed, next(places))
        return _fault(line) or _row(line)

    return read_objects(path, convert, _EXPECTED)


def read_records(
    path: Path, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> list[Record]:
    """What the lines of a `.jsonl` or `.jsonl.gz` file hold, in order; empty lines are passed over.

    Args:
        path: the file; each line a JSON object with an `id` and a `category`.
        convert: makes a record of a parsed line, or says in words what is wrong with it.
        expected: what a line should look like, for the error message.

    Raises:
        NotFoundError: there is no such file.
        DataFormatError: a line is not as it should be, or there is none; the message names file and line.
    """
    return read_objects(path, lambda parsed: _fault(parsed) or convert(parsed), expected)


def read_objects(
    path: Path, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> list[Record]:
    """What the lines of a `.jsonl` or `.jsonl.gz` file hold, as `read_records`, with or without `id`.

    Raises:
        NotFoundError: there is no such file.
        DataFormatError: a line is not as it should be, or there is none; the message names file and line.
    """
    if not path.is_file():
        message = (
            f"there is no file {path}, nor one of that name in the folder that {DATA_VARIABLE} names; give a "
            f".jsonl or .jsonl.gz file, {expected} a line"
        )
        raise NotFoundError(message)
    records = []
    with _open(path) as file:
        for number, line in _lines(file, path):
            if line.strip():
                records.append(_parse(line, f"{path}, line {number}", convert, expected))
    if not records:
        message = f"{path} has no rows; {expected} a line"
        raise DataFormatError(message)
    return records


def category_in_report(category: str) -> str:
    """MT-bench's eight small categories count as one."""
    return MT_BENCH if category in MT_BENCH_CATEGORIES else category


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


def shuffle_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows in a random order: one in which categories come mixed, as requests do."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[place] for place in order]


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


def _parse(
    line: bytes, place: str, convert: Callable[[dict[str, Any]], Record | str], expected: str
) -> Record:
    try:
        parsed = json.loads(line)
    except ValueError as error:  # malformed JSON, or not UTF-8
        message = f"{place}: not JSON ({error}); {expected}"
        raise DataFormatError(message) from error
    converted = (
        convert(parsed) if isinstance(parsed, dict) else f"a JSON object is wanted, not {parsed!r:.40}"
    )
    if isinstance(converted, str):
        message = f"{place}: {converted}; {expected}"
        raise DataFormatError(message)
    return converted


def _fault(parsed: dict[str, Any]) -> str | None:
    """What is wrong with what every line needs, or None."""
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
    """Rows whose prompts are words drawn at random, so that nothing in them or after them repeats itself."""
    drawn = np.random.default_rng(seed).choice(np.array(words, dtype=object), (number, _RANDOM_WORDS))
    return [
        Row(row_id=place, category=RANDOM_WORDS, prompt=" ".join(prompt))
        for place, prompt in enumerate(drawn)
    ]

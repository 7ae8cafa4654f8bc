"""Recorded answers, to measure drafts without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookahead.bench.data.datasets import category_in_report, read_records
from lookahead.drafting.arrays import Int32Array

_EXPECTED = 'expected {"id": 1, "category": "qa", "prompt_ids": [5, 6], "output_ids": [7, 8]}'
_SUCCESSORS = "top8_ids"

_MAX_PERIOD = 64
_MIN_REPEATS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """A prompt and a model's answer, greedy or sampled.

    Attributes:
        trace_id: Its `id` in the file.
        category: Its category in the report.
        prompt_ids: int32 [L].
        output_ids: int32 [T], T at least 1.
        successor_ids: int32 [T, k], the k most probable tokens where the model chose each token of the
            answer, in descending order: row j follows `output_ids[j - 1]`. k is 0 if none were recorded.
        seed: Of the generator that the answer was sampled with, one draw per token; None if it is greedy.
        vocabulary_size: Numbers of such a draw.
    """

    trace_id: str | int
    category: str
    prompt_ids: Int32Array
    output_ids: Int32Array
    successor_ids: Int32Array
    seed: int | None = None
    vocabulary_size: int | None = None


def read_traces(path: Path) -> list[Trace]:
    """Return the traces of a `.jsonl` or `.jsonl.gz` file, in the file's order.

    Raises:
        NotFoundError: The file does not exist.
        DataFormatError: A line is malformed, or there is none; the message names file and line.
    """
    return read_records(path, _parse, _EXPECTED)


def _parse(record: dict[str, Any]) -> Trace | str:
    """Return the trace of a parsed line, or what is wrong with it."""
    columns: dict[str, Any] = {}
    for name, min_tokens in (("prompt_ids", 0), ("output_ids", 1)):
        tokens = record.get(name)
        if not isinstance(tokens, list) or len(tokens) < min_tokens or not _are_tokens(tokens):
            return f"{name!r} must be a list of token ids, at least {min_tokens} long, not {tokens!r:.40}"
        columns[name] = np.array(tokens, np.int32)
    successors = _successors(record.get(_SUCCESSORS), len(columns["output_ids"]))
    if isinstance(successors, str):
        return successors
    for name in ("seed", "vocabulary_size"):
        value = record.get(name)
        if value is not None and (type(value) is not int or value < 0):
            return f"{name!r} must be an integer that is not negative, not {value!r:.40}"
        columns[name] = value
    return Trace(
        trace_id=record["id"],
        category=category_in_report(record["category"]),
        successor_ids=successors,
        **columns,
    )


def _successors(rows: object, size: int) -> Int32Array | str:
    """Return the recorded successors as int32 [size, k], or what is wrong with them."""
    if rows is None:
        return np.zeros((size, 0), np.int32)
    message = f"{_SUCCESSORS!r} must be {size} lists of token ids, all of one length, one for each output id"
    if not isinstance(rows, list) or len(rows) != size:
        return f"{message}, not {rows!r:.40}"
    for row in rows:
        if not isinstance(row, list) or len(row) != len(rows[0]) or not _are_tokens(row):
            return f"{message}; one is {row!r:.40}"
    return np.array(rows, np.int32)


def _are_tokens(tokens: Sequence[object]) -> bool:
    return all(type(token) is int and 0 <= token < 2**31 for token in tokens)


def without_loop(output_ids: Int32Array) -> Int32Array:
    """Return an answer without its final loop, as small greedy models produce them.

    A loop is a tail that repeats three times or more, with a period of up to 64 tokens. One turn is kept.
    """
    size = len(output_ids)
    max_repeat = 0
    for period in range(1, min(_MAX_PERIOD, size // _MIN_REPEATS) + 1):
        differs = np.flatnonzero(output_ids[period:] != output_ids[:-period])
        repeated = size - period if len(differs) == 0 else size - period - 1 - int(differs[-1])
        if repeated >= (_MIN_REPEATS - 1) * period:
            max_repeat = max(max_repeat, repeated)
    return output_ids[: size - max_repeat]

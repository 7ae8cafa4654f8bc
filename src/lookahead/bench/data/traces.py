"""Recorded answers, for measuring drafts without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookahead.bench.data.datasets import category_in_report, read_records
from lookahead.drafting.arrays import Int32Array

_EXPECTED = 'expected {"id": 1, "category": "qa", "prompt_ids": [5, 6], "output_ids": [7, 8]}'
_SUCCESSORS = "top8_ids"

_LONGEST_PERIOD = 64
_FEWEST_REPEATS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """A prompt and what a model answered greedily.

    Attributes:
        trace_id: its `id` in the file.
        category: its category in the report.
        prompt_ids: int32 [L].
        output_ids: int32 [T], T at least 1.
        successor_ids: int32 [T, k], the tokens the model held likeliest where it chose each token of the
            answer, likeliest first: row j follows `output_ids[j - 1]`. k is 0 where none were recorded.
    """

    trace_id: str | int
    category: str
    prompt_ids: Int32Array
    output_ids: Int32Array
    successor_ids: Int32Array


def read_traces(path: Path) -> list[Trace]:
    """Return the traces of a `.jsonl` or `.jsonl.gz` file, in the file's order.

    Raises:
        NotFoundError: there is no such file.
        DataFormatError: a line is not as it should be, or there is none; the message names file and line.
    """
    return read_records(path, _parse, _EXPECTED)


def _parse(record: dict[str, Any]) -> Trace | str:
    """Return the trace of a parsed line, or in words what is wrong with it."""
    columns = {}
    for name, fewest in (("prompt_ids", 0), ("output_ids", 1)):
        tokens = record.get(name)
        if not isinstance(tokens, list) or len(tokens) < fewest or not _are_tokens(tokens):
            return f"{name!r} must be a list of token ids, at least {fewest} long, not {tokens!r:.40}"
        columns[name] = np.array(tokens, np.int32)
    successors = _successors(record.get(_SUCCESSORS), len(columns["output_ids"]))
    if isinstance(successors, str):
        return successors
    return Trace(
        trace_id=record["id"],
        category=category_in_report(record["category"]),
        successor_ids=successors,
        **columns,
    )


def _successors(rows: object, size: int) -> Int32Array | str:
    """Return the recorded successors as int32 [size, k], or in words what is wrong with them."""
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
    """Return an answer up to where it begins to say the same over and over, as small greedy models do.

    A loop is a tail that repeats with a period of at most 64 tokens, three times or more; its first turn
    stays.
    """
    size = len(output_ids)
    longest_repeat = 0
    for period in range(1, min(_LONGEST_PERIOD, size // _FEWEST_REPEATS) + 1):
        differs = np.flatnonzero(output_ids[period:] != output_ids[:-period])
        repeated = size - period if len(differs) == 0 else size - period - 1 - int(differs[-1])
        if repeated >= (_FEWEST_REPEATS - 1) * period:
            longest_repeat = max(longest_repeat, repeated)
    return output_ids[: size - longest_repeat]

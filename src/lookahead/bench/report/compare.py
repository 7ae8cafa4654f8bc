"""Compare two reports: is a change significant?

Speeds are relative to the baseline of each run, so a slower machine does not matter. Prompts are paired, and
the interval is a bootstrap over them. A change is significant if its interval excludes "no change" and if it
is larger than the change of `transformers` measured a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lookahead.bench.methods.registry import BASELINE, NOISE
from lookahead.bench.report.table_maker import NOTHING, FigureTable, interval, number, times
from lookahead.bench.report.uncertainty import Amount, Side, quotient, speed, speed_ratio_interval
from lookahead.errors import ConfigError, DataFormatError

_MAX_VALUE = 28
Pairs = list[tuple[dict[str, Any], dict[str, Any]]]
"""The same prompt in the first report and in the second."""

_NEEDED = ("per_prompt", "settings", "environment")


class Change(StrEnum):
    """The change of a method's speedup."""

    FASTER = "faster"
    SLOWER = "slower"
    NOISE = "within noise"
    UNKNOWN = "too few prompts"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One method in two reports, on the prompts that both have.

    Attributes:
        method: Its name.
        speedups: Speedups over the baseline, end to end, in the first report and in the second.
        ratio: The second speedup ÷ the first.
        bounds: The 95% interval of the ratio; None with too few prompts.
        acceptance: Mean acceptance length in each report.
        change: The kind of the change.
    """

    method: str
    speedups: tuple[float | None, float | None]
    ratio: float | None
    bounds: tuple[float, float] | None
    acceptance: tuple[float | None, float | None]
    change: Change


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> list[Compared]:
    """Compare each method that both reports have.

    Raises:
        DataFormatError: One of them is not a report of `lookahead bench`.
        ConfigError: They have no prompt, or no method except the baseline, in common.
    """
    pairs = _paired(first, second)
    methods = [name for name in pairs[0][0]["runs"] if name != BASELINE and name in pairs[0][1]["runs"]]
    if not methods:
        message = f"the reports have no method in common besides {BASELINE}; measure the same methods in both"
        raise ConfigError(message)
    noise = _bounds(pairs, NOISE) if NOISE in methods else None
    return [_compared(pairs, method, noise) for method in methods]


def compared_table(compared: Sequence[Compared], prompts: int) -> FigureTable:
    """Return one line per method."""
    headings = ("method", "A", "B", "B ÷ A", "95%", "mean acc.\nlength A", "B", "")
    rows = tuple(
        (
            one.method,
            *map(times, one.speedups),
            number(one.ratio),
            interval(one.bounds),
            *map(number, one.acceptance),
            one.change.value,
        )
        for one in compared
    )
    return FigureTable(f"Speedup over {BASELINE}, end to end, on {prompts} prompts of both", headings, rows)


def prompts_in_common(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Return the number of prompts that both reports have."""
    return len(_paired(first, second))


def different_settings(first: dict[str, Any], second: dict[str, Any]) -> FigureTable:
    """Return the settings and the parts of the environment that differ, without the load."""
    rows = []
    for part in ("settings", "environment"):
        for name in dict.fromkeys([*first[part], *second[part]]):
            ours, theirs = first[part].get(name), second[part].get(name)
            if ours != theirs and name != "load_average_at_start":
                rows.append((name, _as_text(ours), _as_text(theirs)))
    return FigureTable("What else differs", ("", "A", "B"), tuple(rows))


def _paired(first: dict[str, Any], second: dict[str, Any]) -> Pairs:
    for report in (first, second):
        missing = [name for name in _NEEDED if name not in report]
        if missing:
            message = f"this is no report of lookahead bench: it has no {missing[0]!r}; give one from --json"
            raise DataFormatError(message)
    theirs = {(row["category"], row["id"], row["prompt_tokens"]): row for row in second["per_prompt"]}
    pairs = [
        (row, theirs[key])
        for row in first["per_prompt"]
        if (key := (row["category"], row["id"], row["prompt_tokens"])) in theirs
    ]
    if not pairs:
        message = "the reports have no prompt in common; compare runs on the same data"
        raise ConfigError(message)
    return pairs


def _compared(pairs: Pairs, method: str, noise: tuple[float, float] | None) -> Compared:
    speedups = tuple(
        quotient(speed(_side(pairs, report, method)), speed(_side(pairs, report, BASELINE)))
        for report in (0, 1)
    )
    ratio, bounds = quotient(speedups[1], speedups[0]), _bounds(pairs, method)
    return Compared(
        method=method,
        speedups=(speedups[0], speedups[1]),
        ratio=ratio,
        bounds=bounds,
        acceptance=(_acceptance(pairs, 0, method), _acceptance(pairs, 1, method)),
        change=Change.NOISE if method == NOISE else _change(ratio, bounds, noise),
    )


def _change(
    ratio: float | None, bounds: tuple[float, float] | None, noise: tuple[float, float] | None
) -> Change:
    if ratio is None or bounds is None:
        return Change.UNKNOWN
    low, high = noise or (1.0, 1.0)
    if bounds[0] > 1 and ratio > max(1, high):
        return Change.FASTER
    if bounds[1] < 1 and ratio < min(1, low):
        return Change.SLOWER
    return Change.NOISE


def _bounds(pairs: Pairs, method: str) -> tuple[float, float] | None:
    return speed_ratio_interval(
        [_side(pairs, 1, method), _side(pairs, 0, BASELINE)],
        [_side(pairs, 1, BASELINE), _side(pairs, 0, method)],
    )


def _side(pairs: Pairs, report: int, method: str) -> Side:
    runs = [pair[report]["runs"][method] for pair in pairs]
    return [Amount(run["tokens"], run["total_s"]) for run in runs]


def _acceptance(pairs: Pairs, report: int, method: str) -> float | None:
    runs = [pair[report]["runs"][method] for pair in pairs]
    return quotient(sum(run["decode_tokens"] for run in runs), sum(run["steps"] for run in runs))


def _as_text(value: Any) -> str:
    text = NOTHING if value is None else str(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"

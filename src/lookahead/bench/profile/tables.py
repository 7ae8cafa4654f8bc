"""The tables of a profile, for a terminal of 80 columns."""

from typing import Any

from lookahead.bench.report.table_maker import NOTHING, FigureTable, figure_table, number, times

PARTS_IN_WORDS = {
    "model_s": "forward, its inputs and mask included",
    "verify_s": "choosing tokens and acceptance",
    "cache_s": "keeping the accepted path in the cache",
    "recycle_s": "recycling logits",
    "draft_s": "drafting and learning",
}


def step_table(context: dict[str, Any]) -> FigureTable:
    """Return one line per step: `generate`'s, Lookahead's plain step, and a verified forward of each size."""
    floor_s, generate = context["floor"]["seconds"], context["generate_step"]
    rows = [
        ("floor: bytes read ÷ bandwidth", _milliseconds(floor_s), NOTHING, NOTHING, times(1.0)),
        (
            "generate, one token",
            _milliseconds(generate["seconds"]),
            times(1.0),
            NOTHING,
            times(generate["over_floor"]),
        ),
    ]
    for step in context["steps"]:
        name = "Lookahead, plain: T(1)" if step["nodes"] == 1 else f"Lookahead, T({step['nodes']})"
        over = (times(step["over_generate"]), times(step["over_one"]), times(step["over_floor"]))
        rows.append((name, _milliseconds(step["seconds"]), *over))
    title = f"Behind {context['context_tokens']:,} tokens: one step"
    return figure_table(title, ("step", "ms", "÷ generate's", "÷ T(1)", "÷ floor"), rows)


def share_table(context: dict[str, Any]) -> FigureTable:
    """Return one line per part of a real decoding step."""
    decoding = context["decoding"]
    nodes = number(decoding["nodes_per_forward"], decimals=1)
    return figure_table(
        f"A real step, mean of {decoding['forwards']} forwards of {nodes} tokens",
        ("part", "ms", "share"),
        (
            (words, _milliseconds(decoding["seconds_per_forward"][part]), f"{decoding['shares'][part]:.1%}")
            for part, words in PARTS_IN_WORDS.items()
        ),
    )


def host_table(context: dict[str, Any]) -> FigureTable | None:
    """Return the host's part of a captured step; None where steps are not captured."""
    host = context["host"]
    if not host["steps"]:
        return None
    words = {**PARTS_IN_WORDS, "model_s": "inputs, and launching the replay"}
    rows = [(words[part], _milliseconds(seconds)) for part, seconds in host["seconds_per_part"].items()]
    nodes = number(host["nodes_per_step"], decimals=1)
    return figure_table(
        f"The host's part of a captured step, median of {host['steps']} of {nodes} tokens",
        ("part", "ms"),
        [*rows, ("all but the replay", _milliseconds(host["seconds"]))],
    )


def summary_table(context: dict[str, Any]) -> FigureTable:
    """Return the time to first token, and peak memory with and without the weights."""
    first, memory = context["first_token"], context["memory"]
    rows = [
        (
            "time to first token, ms",
            _milliseconds(first["lookahead_s"]),
            _milliseconds(first["generate_s"]),
            times(first["over_generate"]),
        )
    ]
    for words, name in (("peak memory, MB", "peak_bytes"), ("… without the weights, MB", "working_bytes")):
        lookahead, generate = memory[f"lookahead_{name}"], memory[f"generate_{name}"]
        ratio = lookahead / generate if generate else None
        rows.append((words, _megabytes(lookahead), _megabytes(generate), times(ratio)))
    return figure_table("A whole call", ("what", "Lookahead", "generate", "ratio"), rows)


def critical_length_line(context: dict[str, Any], *, allowance: float) -> str:
    """Return the CDL in words."""
    critical = context["critical_decoding_length"]
    at_least = "at least " if critical["is_at_least"] else ""
    return f"CDL: T(n) stays within {allowance:.2f} x T(1) up to {at_least}{critical['tokens']} tokens"


def _milliseconds(seconds: float) -> str:
    return number(seconds * 1e3, decimals=2)


def _megabytes(count: float) -> str:
    return number(count / 1e6, decimals=1)

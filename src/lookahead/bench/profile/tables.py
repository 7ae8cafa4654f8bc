"""A profile's figures as tables that fit a terminal of 80 columns."""

from typing import Any

from rich.table import Table

from lookahead.bench.report.figure_table import NOTHING, compact_table, number, times

PARTS_IN_WORDS = {
    "model_s": "forward, its inputs and mask included",
    "verify_s": "choosing tokens and acceptance",
    "cache_s": "keeping the accepted path in the cache",
    "recycle_s": "recycling logits",
    "draft_s": "drafting and learning",
}


def step_table(context: dict[str, Any]) -> Table:
    """One line a step: `generate`'s, Lookahead's plain one, and a verified forward of each size."""
    table = compact_table(f"Behind {context['context_tokens']:,} tokens: one step", "step")
    for heading in ("ms", "÷ generate's", "÷ T(1)", "÷ floor"):
        table.add_column(heading, justify="right")
    plain = context["generate_step"]
    floor_s = context["floor"]["seconds"]
    table.add_row("floor: bytes read ÷ bandwidth", _milliseconds(floor_s), NOTHING, NOTHING, times(1.0))
    table.add_row(
        "generate, one token",
        _milliseconds(plain["seconds"]),
        times(1.0),
        NOTHING,
        times(plain["over_floor"]),
    )
    for step in context["steps"]:
        what = "Lookahead, plain: T(1)" if step["nodes"] == 1 else f"Lookahead, T({step['nodes']})"
        table.add_row(
            what,
            _milliseconds(step["seconds"]),
            *(times(step[name]) for name in ("over_generate", "over_one", "over_floor")),
        )
    return table


def share_table(context: dict[str, Any]) -> Table:
    """One line a part of a real decoding step."""
    decoding = context["decoding"]
    nodes = number(decoding["nodes_per_forward"], decimals=1)
    table = compact_table(f"A real step, mean of {decoding['forwards']} forwards of {nodes} tokens", "part")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    for part, words in PARTS_IN_WORDS.items():
        share = f"{decoding['shares'][part]:.1%}"
        table.add_row(words, _milliseconds(decoding["seconds_per_forward"][part]), share)
    return table


def summary_table(context: dict[str, Any]) -> Table:
    """One line for the time to first token, and for peak memory with and without the weights."""
    first, memory = context["first_token"], context["memory"]
    table = compact_table("A whole call", "what")
    for heading in ("Lookahead", "generate", "ratio"):
        table.add_column(heading, justify="right")
    table.add_row(
        "time to first token, ms",
        _milliseconds(first["lookahead_s"]),
        _milliseconds(first["generate_s"]),
        times(first["over_generate"]),
    )
    for words, name in (("peak memory, MB", "peak_bytes"), ("… without the weights, MB", "working_bytes")):
        ours, librarys = memory[f"lookahead_{name}"], memory[f"generate_{name}"]
        ratio = ours / librarys if librarys else None
        table.add_row(words, _megabytes(ours), _megabytes(librarys), times(ratio))
    return table


def critical_length_line(context: dict[str, Any], *, allowance: float) -> str:
    """The CDL in words."""
    critical = context["critical_decoding_length"]
    at_least = "at least " if critical["is_at_least"] else ""
    return f"CDL: T(n) stays within {allowance:.2f} x T(1) up to {at_least}{critical['tokens']} tokens"


def _milliseconds(seconds: float) -> str:
    return number(seconds * 1e3, decimals=2)


def _megabytes(count: float) -> str:
    return number(count / 1e6, decimals=1)

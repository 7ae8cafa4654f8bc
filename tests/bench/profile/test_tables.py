"""A profile as tables and as a picture."""

import io

from rich.console import Console

from lookahead.bench.profile.tables import (
    critical_length_line,
    host_table,
    share_table,
    step_table,
    summary_table,
)


def step(nodes, seconds):
    return {
        "nodes": nodes,
        "seconds": seconds,
        "over_generate": seconds / 0.05,
        "over_one": seconds / 0.04,
        "over_floor": seconds / 0.01,
    }


CONTEXT = {
    "context_tokens": 1000,
    "floor": {"cache_bytes": 5, "seconds": 0.01},
    "generate_step": {"seconds": 0.05, "over_floor": 5.0},
    "steps": [step(1, 0.04), step(16, 0.06)],
    "critical_decoding_length": {"tokens": 4, "is_at_least": False},
    "decoding": {
        "forwards": 20,
        "nodes_per_forward": 15.5,
        "seconds_per_forward": {
            "model_s": 0.0625,
            "verify_s": 0.002,
            "cache_s": 0.001,
            "recycle_s": 0.0,
            "draft_s": 0.0,
        },
        "shares": {"model_s": 0.954, "verify_s": 0.03, "cache_s": 0.016, "recycle_s": 0.0, "draft_s": 0.0},
    },
    "host": {
        "steps": 22,
        "reason": "",
        "seconds": 0.0004,
        "seconds_per_part": {"model_s": 0.0003, "draft_s": 0.00009},
        "nodes_per_step": 16.0,
        "tokens_per_step": 2.9,
    },
    "first_token": {"lookahead_s": 0.3, "generate_s": 0.2, "over_generate": 1.5},
    "memory": {
        "new_tokens": 16,
        "lookahead_peak_bytes": 120e6,
        "generate_peak_bytes": 100e6,
        "lookahead_working_bytes": 30e6,
        "generate_working_bytes": 10e6,
        "over_generate": 1.2,
    },
}


def rows(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table.as_rich())
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_each_step_has_its_ratios():
    shown = rows(step_table(CONTEXT))
    assert "generate, one token 50.00 1.00x - 5.00x" in shown
    assert "Lookahead, plain: T(1) 40.00 0.80x 1.00x 4.00x" in shown
    assert "Lookahead, T(16) 60.00 1.20x 1.50x 6.00x" in shown
    assert max(map(len, shown)) <= 80


def test_each_part_has_its_share():
    shown = rows(share_table(CONTEXT))
    assert "forward, its inputs and mask included 62.50 95.4%" in shown
    assert "keeping the accepted path in the cache 1.00 1.6%" in shown


def test_a_whole_call_is_beside_generates():
    shown = rows(summary_table(CONTEXT))
    assert "time to first token, ms 300.00 200.00 1.50x" in shown
    assert "peak memory, MB 120.0 100.0 1.20x" in shown
    assert "… without the weights, MB 30.0 10.0 3.00x" in shown


def test_the_critical_length_says_where_it_is_not_reached():
    assert critical_length_line(CONTEXT, allowance=1.1) == "CDL: T(n) stays within 1.10 x T(1) up to 4 tokens"
    flat = {"critical_decoding_length": {"tokens": 64, "is_at_least": True}}
    assert critical_length_line(flat, allowance=1.1).endswith("up to at least 64 tokens")


def test_the_hosts_part_of_a_captured_step():
    shown = rows(host_table(CONTEXT))
    assert shown[:2] == ["The host's part of a captured step,", "median of 22 of 16.0 tokens"]
    assert "inputs, and launching the replay 0.30" in shown
    assert "all but the replay 0.40" in shown
    assert host_table({"host": {"steps": 0, "reason": "said elsewhere"}}) is None

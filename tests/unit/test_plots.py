from lookahead.bench.plots import plot_speedups

REPORT = {
    "decode_speedup": {
        "prompt-lookup": {"overall": 1.5, "by_category": {"qa": 1.2, "math_reasoning": 1.6}},
        "lookahead": {"overall": 2.25, "by_category": {"qa": 1.75, "math_reasoning": 2.5}},
    },
    "prompts": {"overall": 2, "by_category": {"qa": 1, "math_reasoning": 1}},
    "environment": {"model": "tiny", "dtype": "float32", "threads": 1},
    "memory": "cold",
}


def test_a_report_becomes_a_picture_of_its_figures(tmp_path):
    path = tmp_path / "speedup.svg"
    plot_speedups(REPORT, path)
    drawn = path.read_text()
    for words in ("overall", "qa", "math reasoning", "2.25x", "1.75x", "2.50x", "2 prompts, tiny"):
        assert f"<!-- {words}" in drawn

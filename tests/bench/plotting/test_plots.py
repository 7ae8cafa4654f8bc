"""Pictures say what the figures say."""

import pytest

from lookahead.bench.plotting.kit import check_can_draw, colours_of, draw_bars, draw_curves
from lookahead.bench.plotting.pictures import pictures_of
from lookahead.bench.plotting.speedups import plot_speedups
from lookahead.errors import ConfigError

REPORT = {
    "decode_speedup": {
        "transformers-again": {"overall": 1.0, "by_category": {"qa": 1.0, "math_reasoning": 1.0}},
        "prompt-lookup": {"overall": 1.5, "by_category": {"qa": 1.2, "math_reasoning": 1.6}},
        "lookahead": {"overall": 2.25, "by_category": {"qa": 1.75, "math_reasoning": 2.5}},
    },
    "prompts": {"overall": 2, "by_category": {"qa": 1, "math_reasoning": 1}},
    "environment": {"model": "tiny", "dtype": "float32", "threads": 1},
    "memory": "cold",
    "per_prompt": [],
}


def words_in(path):
    return [line.strip()[5:-4] for line in path.read_text().splitlines() if line.strip().startswith("<!-- ")]


def test_a_report_becomes_a_picture_of_its_figures(tmp_path):
    path = tmp_path / "speedup.svg"
    plot_speedups(REPORT, path)
    drawn = words_in(path)
    for words in ("overall", "qa", "math reasoning", "2.25x", "1.75x", "2.50x"):
        assert words in drawn
    assert "lookahead: 2.25x the decoding speed of transformers" in drawn
    assert any(line.startswith("2 prompts, tiny, float32, 1 CPU thread, greedy") for line in drawn)
    assert "transformers-again" not in drawn


def test_the_same_figures_are_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot_speedups(REPORT, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_batches_are_drawn_end_to_end(tmp_path):
    nothing = {"overall": None, "by_category": {"batch 1": None, "batch 2": None}}
    speeds = {"overall": 1.4, "by_category": {"batch 1": 1.6, "batch 2": 1.25}}
    report = {**REPORT, "decode_speedup": {"lookahead": nothing}, "speedup": {"lookahead": speeds}}
    report["prompts"] = {"overall": 3, "by_category": {"batch 1": 2, "batch 2": 1}}
    plot_speedups(report, tmp_path / "batch.svg")
    drawn = words_in(tmp_path / "batch.svg")
    assert {"lookahead: 1.60x in batch 1, 1.25x in batch 2", "1.60x", "1.25x"} <= set(drawn)
    assert "overall" not in drawn


def test_curves_and_bars_are_called_by_their_names(tmp_path):
    path = tmp_path / "picture.svg"
    curves = {"log": ([2**16, 2**20], [1.0, 2.0]), "trie": ([2**20], [1.5])}
    draw_curves(path, curves, says="Says", about="about", names=("bytes", "tokens"), logarithmic=True)
    assert {"log", "trie", "64k", "1M", "bytes", "tokens"} <= set(words_in(path))
    draw_bars(path, {"all": 2.0, "without": 1.5}, says="Says", about="a", name="tokens", references=["all"])
    assert {"all", "without", "2.00", "1.50"} <= set(words_in(path))


def test_colours_are_distinct_and_stay(tmp_path):
    names = ["lookahead", "prompt-lookup", "llma", "lookahead-trie", "static-compile", "lookahead-plain"]
    colours = colours_of(names)
    assert len(set(colours.values())) == len(names)
    assert colours_of(["lookahead"])["lookahead"] == colours["lookahead"]
    check_can_draw(tmp_path / "picture.svg")
    with pytest.raises(ConfigError, match=r"ends in '\.txt'"):
        check_can_draw(tmp_path / "picture.txt")


def test_a_report_has_the_pictures_that_its_methods_allow(tmp_path):
    assert list(pictures_of(REPORT)) == ["speedup"]
    figures = {"overall": 2.0, "by_category": {"qa": 2.0, "math_reasoning": 2.0}}
    sized = {f"lookahead-{name}": figures for name in ("8x4", "8x8", "16x4", "64KiB", "256KiB")}
    runs = {
        name: {"steps": 10, "decode_tokens": 20 + place}
        for place, name in enumerate(("lookahead", "lookahead-fresh"))
    }
    report = {
        **REPORT,
        "decode_speedup": REPORT["decode_speedup"] | sized,
        "per_prompt": [{"runs": runs}] * 8,
        "peak_memory": {"mebibytes": {"transformers": 1000.0, "lookahead": 1010.0}},
    }
    pictures = pictures_of(report)
    assert list(pictures) == ["speedup", "methods", "peak-memory", "warm-up"]
    for name, draw in pictures.items():
        draw(tmp_path / f"{name}.svg")
    assert {"Peak memory: +1.0% beside transformers", "1010"} <= set(words_in(tmp_path / "peak-memory.svg"))
    assert "A growing memory adds -5% tokens a forward" in words_in(tmp_path / "warm-up.svg")


def test_sizes_alone_have_no_picture_by_category_and_many_methods_of_one_have_bars():
    figures = {"overall": 2.0, "by_category": {"qa": 2.0}}
    one = {**REPORT, "prompts": {"overall": 1, "by_category": {"qa": 1}}}
    sizes = {f"lookahead-{name}": figures for name in ("8x4", "8x8")}
    assert list(pictures_of({**one, "decode_speedup": sizes})) == []
    many = {f"lookahead-trie-without-{name}": figures for name in "abcdef"}
    assert list(pictures_of({**one, "decode_speedup": many})) == ["methods"]


def test_long_names_leave_room_for_the_bars(tmp_path):
    figures = {"overall": 2.0, "by_category": {"qa": 2.0}}
    many = {f"lookahead-trie-without-earlier-answers-{name}": figures for name in "abcde"}
    report = {**REPORT, "prompts": {"overall": 1, "by_category": {"qa": 1}}, "decode_speedup": many}
    plot_speedups(report, tmp_path / "speedup.svg")  # a layout that collapses is a warning, and so an error
    assert "lookahead-trie-without-earlier-answers-e" in words_in(tmp_path / "speedup.svg")

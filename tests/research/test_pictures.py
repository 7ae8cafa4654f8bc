"""The pictures of the paper's experiments say what the figures say."""

from research.plotting.heat_map import draw_heat_map
from research.plotting.pictures import LIVE_PICTURES, replay_pictures_of


def words_in(path):
    return [line.strip()[5:-4] for line in path.read_text().splitlines() if line.strip().startswith("<!-- ")]


def test_a_heat_map_frames_no_cell_but_says_all(tmp_path):
    cells = {(4, 2): 1.25, (4, 8): 1.5, (8, 2): 1.75}
    draw_heat_map(tmp_path / "grid.svg", cells, says="Says", about="about", names=("lines", "columns"))
    assert {"Says", "about", "lines", "columns", "1.25", "1.50", "1.75"} <= set(
        words_in(tmp_path / "grid.svg")
    )
    assert "nan" not in words_in(tmp_path / "grid.svg")


def test_a_report_has_the_pictures_that_its_methods_allow(tmp_path):
    figures = {"overall": 2.0, "by_category": {"qa": 2.0}}
    report = {
        "decode_speedup": {
            f"lookahead-{name}": figures for name in ("8x4", "8x8", "16x4", "64KiB", "256KiB")
        },
        "prompts": {"overall": 1, "by_category": {"qa": 1}},
        "environment": {"model": "tiny", "dtype": "float32", "threads": 1},
        "memory": "cold",
    }
    for name, picture_of in LIVE_PICTURES.items():
        picture_of(report)(tmp_path / f"{name}.svg")
    assert "2.00x at 8 tokens, 4 deep" in words_in(tmp_path / "grid.svg")
    assert {"lookahead", "64k", "256k"} <= set(words_in(tmp_path / "capacity.svg"))
    without = {**report, "decode_speedup": {"lookahead-8x4": figures, "lookahead-64KiB": figures}}
    assert [picture_of(without) for picture_of in LIVE_PICTURES.values()] == [None, None]


def test_the_warm_up_picture_is_of_the_gain(tmp_path):
    rows = [
        {"store": "memory grows", "by_requests": [[10.0, 2.0], [20.0, 3.0]]},
        {"store": "memory emptied", "by_requests": [[10.0, 2.0], [20.0, 2.0]]},
    ]
    report = {"experiment": "warm-up", "results": rows, "traces": 20, "data": "traces"}
    replay_pictures_of(report)["warm-up"](tmp_path / "picture.svg")
    assert "A growing memory adds 50% tokens a forward" in words_in(tmp_path / "picture.svg")

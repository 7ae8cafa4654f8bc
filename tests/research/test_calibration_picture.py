"""The reliability diagram of a replay."""

import pytest

from lookahead.errors import ConfigError
from research.plotting.calibration import plot_calibration

JUDGED = {
    "bins": [
        {"predicted": 0.1, "observed": 0.0, "count": 1},
        {"predicted": 0.5, "observed": 0.0, "count": 1},
        {"predicted": 0.8, "observed": 1.0, "count": 1},
    ],
    "expected_calibration_error": 0.2667,
}


def test_the_diagram_shows_each_store_that_predicts(tmp_path):
    rows = [
        {"store": "log", "draft_tokens": 8, "calibration": JUDGED},
        {"store": "log", "draft_tokens": 16, "calibration": JUDGED},
        {"store": "prompt-lookup", "draft_tokens": 16, "calibration": None},
    ]
    path = tmp_path / "calibration.svg"
    plot_calibration(rows, path)
    drawn = path.read_text()
    for words in ("log", "8 tokens, error 0.267", "16 tokens, error 0.267"):
        assert f"<!-- {words} -->" in drawn
    assert "prompt-lookup" not in drawn
    with pytest.raises(ConfigError, match="no probabilities to judge in prompt-lookup"):
        plot_calibration(rows[2:], path)

"""What was predicted for a node, against whether it came: only where its parent was accepted."""

import numpy as np
import pytest

from lookahead.bench.plotting.kit import check_can_draw
from lookahead.bench.replay.calibration import Calibration
from lookahead.bench.replay.replay import accepted_levels
from lookahead.drafting.tree import DraftTree
from lookahead.errors import ConfigError


def ids(*tokens):
    return np.array(tokens, np.int32)


#   0 ── 4 (0.8) ── 6 (0.4)
#    └── 5 (0.1) ── 7 (0.05): never judged where 4 came
TREE = DraftTree(
    ids(0, 4, 5, 6, 7), ids(-1, 0, 0, 1, 2), ids(0, 1, 1, 2, 2), np.array([1, 0.8, 0.1, 0.4, 0.05])
)


def noted(continuation):
    calibration = Calibration()
    calibration.note(TREE, accepted_levels(TREE, continuation), continuation)
    return calibration.summary()


def test_children_of_accepted_nodes_are_judged_given_their_parent():
    assert noted(ids(4, 9)) == {
        "bins": [
            {"predicted": 0.1, "observed": 0.0, "count": 1},
            {"predicted": 0.5, "observed": 0.0, "count": 1},
            {"predicted": 0.8, "observed": 1.0, "count": 1},
        ],
        "expected_calibration_error": round((0.1 + 0.5 + 0.2) / 3, 4),
    }


def test_nothing_is_judged_beyond_a_rejection_or_the_recording():
    assert [figures["count"] for figures in noted(ids(9, 9))["bins"]] == [1, 1]
    assert [figures["count"] for figures in noted(ids(4))["bins"]] == [1, 1]
    assert noted(ids()) is None


def test_an_impossible_node_is_predicted_never():
    calibration = Calibration()
    tree = DraftTree(ids(0, 4, 5), ids(-1, 0, 1), ids(0, 1, 2), np.array([1.0, 0.0, 0.0]))
    calibration.note(tree, accepted_levels(tree, ids(4, 5)), ids(4, 5))
    assert calibration.summary() == {
        "bins": [{"predicted": 0.0, "observed": 1.0, "count": 2}],
        "expected_calibration_error": 1.0,
    }


def test_a_picture_needs_an_ending_that_is_known(tmp_path):
    check_can_draw(tmp_path / "picture.png")
    with pytest.raises(ConfigError, match=r"'picture.txt' ends in '.txt'"):
        check_can_draw(tmp_path / "picture.txt")

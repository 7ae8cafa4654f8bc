"""Hand-drawn draft trees, and everything that is none."""

import numpy as np
import pytest

from lookahead.drafting.tree import DraftTree

#        0:5
#       /   \
#     1:6   2:7
#      |    /  \
#     3:8  4:8  5:0
TOKENS = [5, 6, 7, 8, 8, 0]
PARENTS = [-1, 0, 0, 1, 2, 2]
DEPTHS = [0, 1, 1, 2, 2, 2]
CHANCES = [1.0, 0.6, 0.3, 0.5, 0.3, 0.0]


def draft(tokens=TOKENS, parents=PARENTS, depths=DEPTHS, probabilities=CHANCES):
    return DraftTree(
        np.array(tokens, np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.array(probabilities, np.float64),
    )


def test_a_node_sees_itself_and_what_is_above_it():
    assert draft().ancestors().astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize(("node", "path"), [(0, [0]), (1, [0, 1]), (3, [0, 1, 3]), (5, [0, 2, 5])])
def test_path_to_a_node(node, path):
    assert draft().path_to(node) == path


@pytest.mark.parametrize(
    ("nodes", "token", "children"),
    [
        ([0], 6, [1]),
        ([0], 8, []),  # a grandchild is no child
        ([1], 8, [3]),
        ([2], 8, [4]),
        ([1, 2], 8, [3, 4]),  # as in a parallel draft, where both may stand for the same tokens
        ([2], 0, [5]),  # token 0 is a token like any other
        ([3], 8, []),
    ],
)
def test_children_with_a_token(nodes, token, children):
    assert draft().children_with_token(nodes, token) == children


def test_the_root_alone_is_a_plain_step():
    tree = DraftTree.root_only(7)
    assert len(tree) == 1
    assert tree.token_ids.tolist() == [7]
    assert tree.ancestors().tolist() == [[True]]


@pytest.mark.parametrize(
    ("malformed", "message"),
    [
        (
            {"tokens": [], "parents": [], "depths": [], "probabilities": []},
            "needs node 0 and arrays of one length",
        ),
        ({"tokens": [5, 6, 7, 8, 8]}, "arrays of one length"),
        ({"parents": [-1, 0, 0, 1, 2]}, "arrays of one length"),
        ({"depths": [0, 1, 1, 2, 2]}, "arrays of one length"),
        ({"probabilities": [1.0, 0.6, 0.3, 0.5, 0.3]}, "arrays of one length"),
        ({"parents": [0, 0, 0, 1, 2, 2]}, "node 0 is the current token"),
        ({"depths": [1, 2, 2, 3, 3, 3]}, "node 0 is the current token"),
        ({"parents": [-1, 0, 0, 4, 2, 2]}, "a parent must come before its children"),
        ({"parents": [-1, 1, 0, 1, 2, 2]}, "a parent must come before its children"),
        ({"parents": [-1, 0, -1, 1, 2, 2]}, "a parent must come before its children"),
        ({"parents": [-1, 0, 0, 1, 2, 6]}, "a parent must come before its children"),
        ({"depths": [0, 1, 1, 2, 3, 2]}, "depth must be its parent's plus one"),
        ({"tokens": [5, 6, 7, 8, -1, 0]}, "token ids must not be negative"),
        ({"tokens": [-1, 6, 7, 8, 8, 0]}, "token ids must not be negative"),
        ({"probabilities": [1.0, 0.6, 0.3, 0.61, 0.3, 0.0]}, "at most as probable as its prefix"),
        ({"probabilities": [1.0, 0.6, 0.3, 0.5, 0.3, -0.1]}, "never less than impossible"),
        ({"probabilities": [1.0, 0.6, 0.3, 0.5, 0.3, float("nan")]}, "at most as probable as its prefix"),
        ({"probabilities": [1.1, 0.6, 0.3, 0.5, 0.3, 0.0]}, "at most as probable as its prefix"),
    ],
)
def test_what_is_no_tree_in_topological_order_is_refused(malformed, message):
    with pytest.raises(ValueError, match=message):
        draft(**malformed)


@pytest.mark.parametrize("size", [1, 3, 6])
def test_the_first_nodes_are_a_tree(size):
    first = draft().first(size)
    assert first.token_ids.tolist() == TOKENS[:size]
    assert first.parents.tolist() == PARENTS[:size]
    assert first.depths.tolist() == DEPTHS[:size]
    assert first.probabilities.tolist() == CHANCES[:size]


@pytest.mark.parametrize("size", [0, -1, 7])
def test_no_node_or_more_than_there_are_cannot_be_kept(size):
    with pytest.raises(ValueError, match=f"size={size} is not allowed; this tree has 1 to 6 nodes to keep"):
        draft().first(size)


def test_a_negative_current_token_is_refused():
    with pytest.raises(ValueError, match="token ids must not be negative"):
        DraftTree.root_only(-1)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("spoiled", [lambda column: column.astype(np.int64), lambda column: column[None]])
def test_columns_of_another_type_or_shape_are_refused(place, spoiled):
    tree = draft()
    columns = [tree.token_ids, tree.parents, tree.depths, tree.probabilities]
    columns[place] = spoiled(columns[place])
    with pytest.raises(ValueError, match="int32, int32, int32 and float64"):
        DraftTree(*columns)

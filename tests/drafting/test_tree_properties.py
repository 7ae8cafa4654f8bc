"""Random draft trees against the definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead.drafting.tree import DraftTree


@st.composite
def draft_trees(draw):
    size = draw(st.integers(1, 40))
    parents = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, size))]
    depths, probabilities = [0], [1.0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
        probabilities.append(probabilities[parent] * draw(st.floats(0, 1)))
    tokens = draw(st.lists(st.integers(0, 3), min_size=len(parents), max_size=len(parents)))
    return DraftTree(
        np.array(tokens, np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.array(probabilities, np.float64),
    )


def above(tree, node):
    """The node and all its ancestors, one after the other."""
    while node != -1:
        yield node
        node = int(tree.parents[node])


@given(draft_trees())
def test_ancestors_are_the_ancestor_relation(tree):
    expected = [[column in above(tree, row) for column in range(len(tree))] for row in range(len(tree))]
    assert tree.ancestors().tolist() == expected


@given(draft_trees())
def test_a_path_leads_from_the_root_to_its_node(tree):
    for node in range(len(tree)):
        path = tree.path_to(node)
        assert path == list(above(tree, node))[::-1]
        assert len(path) == tree.depths[node] + 1


@given(draft_trees())
def test_a_chain_is_a_tree_of_one_branch(tree):
    assert tree.is_chain == (tree.parents.tolist() == list(range(-1, len(tree) - 1)))
    assert DraftTree.chain(tree.token_ids).is_chain


@given(draft_trees(), st.sets(st.integers(0, 39)), st.integers(0, 3))
def test_children_with_a_token_are_exactly_those(tree, nodes, token):
    expected = [n for n in range(1, len(tree)) if tree.parents[n] in nodes and tree.token_ids[n] == token]
    assert tree.children_with_token(sorted(nodes), token) == expected


@given(draft_trees(), st.data())
def test_a_tree_with_one_node_misplaced_is_refused(tree, data):
    if len(tree) == 1:
        return
    node = data.draw(st.integers(1, len(tree) - 1))
    parents = tree.parents.copy()
    parents[node] = data.draw(st.integers(node, len(tree) + 2))
    with pytest.raises(ValueError, match="a parent must come before its children"):
        DraftTree(tree.token_ids, parents, tree.depths, tree.probabilities)

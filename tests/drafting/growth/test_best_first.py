"""The shape of drafts: budget, depth, the three modes, best first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.drafts import branches, memory_of, propose
from lookahead.config import DraftMode
from lookahead.drafting.growth.best_first import (
    MIN_PROBABILITY,
    TOKEN,
    has_next,
    new_frontier,
    new_tree,
    pop_best,
    push,
    reset_frontier,
    would_accept,
)
from lookahead.drafting.store import Origin

OUTPUT = Origin.OUTPUT


@pytest.mark.parametrize("mode", DraftMode)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33])
def test_the_budget_is_used_to_the_last_node_and_never_exceeded(mode, length):
    random = np.random.default_rng(3)
    trie = memory_of(random.integers(0, 4, 400))
    trie.insert("now", [0, 1, 2], OUTPUT)
    draft = propose(trie, length=length, depth=40, mode=mode)
    assert len(draft) == length or (mode is DraftMode.SINGLE and draft.probabilities[-1] < 0.01)


@pytest.mark.parametrize("mode", DraftMode)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_branch_is_longer_than_allowed(mode, depth):
    trie = memory_of([1, 2, 3, 4, 5, 6, 7])
    trie.insert("now", [1], OUTPUT)
    assert propose(trie, depth=depth, mode=mode).depths.max() == depth


FORKED = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 5], [1, 2, 5], [1, 6]]


def test_hierarchical_drafts_share_prefixes():
    #  1 ─ 2 ─ 3 ─ 4
    #  │   └── 5
    #  └── 6
    trie = memory_of(*FORKED)
    trie.insert("now", [1], OUTPUT)
    draft = propose(trie)
    assert sorted(branches(draft)) == [[2, 3, 4], [2, 5], [6]]
    assert sorted(draft.token_ids.tolist()) == [1, 2, 3, 4, 5, 6]


def test_parallel_drafts_share_nothing_but_the_current_token():
    #  1 ─ 6
    #  ├── 2 ─ 5
    #  └── 2 ─ 3 ─ 4        the most probable first: the longer, the less likely to its end
    trie = memory_of(*FORKED)
    trie.insert("now", [1], OUTPUT)
    draft = propose(trie, mode=DraftMode.PARALLEL)
    assert branches(draft) == [[6], [2, 5], [2, 3, 4]]
    assert draft.token_ids.tolist() == [1, 6, 2, 5, 2, 3, 4]


def test_a_single_branch_follows_the_max_probable_token():
    trie = memory_of(*FORKED)
    trie.insert("now", [1], OUTPUT)
    assert propose(trie, mode=DraftMode.SINGLE).token_ids.tolist() == [1, 2, 3, 4]


def test_nodes_come_best_first():
    random = np.random.default_rng(5)
    trie = memory_of(random.integers(0, 6, 500))
    trie.insert("now", [0, 1], OUTPUT)
    probabilities = propose(trie, length=64).probabilities
    assert (np.diff(probabilities) <= 0).all()
    assert probabilities[0] == 1.0


def test_what_may_follow_is_never_more_than_certain():
    random = np.random.default_rng(6)
    trie = memory_of(random.integers(0, 6, 500))
    trie.insert("now", [0, 1, 2], OUTPUT)
    draft = propose(trie, length=200)
    for node in range(len(draft)):
        assert draft.probabilities[draft.parents == node].sum() <= draft.probabilities[node]


# The frontier.

CHANCES = st.sampled_from([0.0, MIN_PROBABILITY / 2, MIN_PROBABILITY, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1)
MAX_NODES = st.integers(1, 8)


def drafted(frontier, tree):
    """The next node of the frontier, its probability and its token."""
    row = pop_best(frontier, tree, 1)
    assert frontier.nodes[row, TOKEN] == tree.token_ids[1]
    return float(tree.probabilities[1]), int(tree.token_ids[1])


@given(MAX_NODES, st.integers(0, 5), st.lists(st.lists(CHANCES, max_size=10), max_size=10))
def test_the_frontier_gives_what_a_sorted_list_of_all_would_give(max_nodes, spare, rounds):
    # After each round one node is drafted; what comes later is never more probable, as a child never is.
    frontier, tree = reset_frontier.py_func(new_frontier(max_nodes + spare), max_nodes), new_tree(2, 0)
    waiting, token, best = [], 0, 1.0
    for probabilities in [[], *rounds][:max_nodes]:
        for probability in probabilities:
            push(frontier, best * probability, 0, token, 0, 0)
            if best * probability >= MIN_PROBABILITY:
                waiting.append((-best * probability, token))
            token += 1
        assert has_next(frontier) == bool(waiting and max_nodes > 1)
        if not has_next(frontier):
            break
        first = min(waiting)
        waiting.remove(first)
        assert drafted(frontier, tree) == (-first[0], first[1])
        best = -first[0]


@given(MAX_NODES, st.lists(CHANCES, max_size=20), CHANCES)
def test_a_node_may_wait_if_it_would_ever_be_drafted(max_nodes, probabilities, last):
    frontier, tree = new_frontier(max_nodes), new_tree(2, 0)
    for token, probability in enumerate(probabilities):
        push(frontier, probability, 0, token, 0, 0)
    may = would_accept(frontier, last)
    push(frontier, last, 0, 99, 0, 0)
    tokens = []
    while has_next(frontier):
        tokens.append(drafted(frontier, tree)[1])
    assert len(tokens) <= max_nodes - 1
    assert may == (99 in tokens)


def test_an_emptied_frontier_forgets_what_waited():
    frontier, tree = new_frontier(4), new_tree(2, 0)
    push(frontier, 0.9, 0, 1, 0, 0)
    frontier = reset_frontier.py_func(frontier, 3)  # Python gets no arrays of lean kernels
    assert not has_next(frontier)
    for token, probability in [(2, 0.1), (3, 0.3), (4, 0.2), (5, 0.3)]:
        push(frontier, probability, 0, token, 0, 0)
    assert [drafted(frontier, tree), drafted(frontier, tree)] == [(0.3, 3), (0.3, 5)]  # then first come
    assert not has_next(frontier)

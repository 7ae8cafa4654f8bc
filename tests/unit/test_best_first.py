"""The shape of drafts: budget, depth, the three modes, best first."""

import numpy as np
import pytest

from drafts import branches, memory_of, propose
from lookahead.config import DraftMode
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


def test_a_single_branch_follows_the_most_probable_token():
    trie = memory_of(*FORKED)
    trie.insert("now", [1], OUTPUT)
    assert propose(trie, mode=DraftMode.SINGLE).token_ids.tolist() == [1, 2, 3, 4]


def test_nodes_come_best_first():
    random = np.random.default_rng(5)
    trie = memory_of(random.integers(0, 6, 500))
    trie.insert("now", [0, 1], OUTPUT)
    chances = propose(trie, length=64).probabilities
    assert (np.diff(chances) <= 0).all()
    assert chances[0] == 1.0


def test_what_may_follow_is_never_more_than_certain():
    random = np.random.default_rng(6)
    trie = memory_of(random.integers(0, 6, 500))
    trie.insert("now", [0, 1, 2], OUTPUT)
    draft = propose(trie, length=200)
    for node in range(len(draft)):
        assert draft.probabilities[draft.parents == node].sum() <= draft.probabilities[node]

"""The other systems, by cases drawn by hand: what they copy, and the published trie's faults."""

import numpy as np
import pytest

from lookahead.errors import MissingDependencyError
from research.peers import arctic
from research.peers.llma import LLMA
from research.peers.peer import measured_bytes, tree_of
from research.peers.prompt_lookup import PromptLookup
from research.peers.published_trie import PublishedTrie


def ids(*tokens):
    return np.array(tokens, np.int32)


def request(drafter, prompt, *answer):
    drafter.begin(ids(*prompt))
    for tokens in answer:
        drafter.learn(ids(*tokens))


def drafted(drafter, draft_tokens=8, max_depth=8):
    """Every path of the draft, without node 0."""
    tree = drafter.propose(draft_tokens, max_depth)
    leaves = set(range(len(tree))) - set(tree.parents.tolist())
    return sorted(tree.token_ids[tree.path_to(leaf)[1:]].tolist() for leaf in leaves)


def test_a_tree_is_cut_at_its_depth():
    tree = tree_of([0, 1, 2, 3, 4], [-1, 0, 1, 2, 0], max_depth=2)
    assert (tree.token_ids.tolist(), tree.parents.tolist()) == ([0, 1, 2, 4], [-1, 0, 1, 0])


def test_bytes_are_measured_once_for_each_object():
    tokens = [2**40, 2**41]
    assert measured_bytes([tokens, tokens]) < measured_bytes([tokens, [2**42, 2**43]])
    assert measured_bytes({"a": tokens}) > measured_bytes(tokens)


def test_prompt_lookup_copies_what_followed_the_first_occurrence():
    lookup = PromptLookup(longest_match=2, max_tokens=3)
    request(lookup, [5, 6, 1, 2, 5, 6, 3, 4, 5], [6])
    assert lookup.propose(8, 8).token_ids.tolist() == [6, 1, 2, 5]
    assert lookup.propose(8, 1).token_ids.tolist() == [6, 1]


def test_llma_matches_the_answers_longest_end_and_copies_after_its_first_place():
    llma = LLMA()
    request(llma, [1, 9, 7, 1, 2, 8, 1, 2, 6], [1])
    assert drafted(llma, 3) == [[9, 7, 1]]  # the answer has one token: what stands before it does not count
    llma.learn(ids(2))
    assert drafted(llma, 2) == [[8, 1]]
    assert drafted(llma, 9, max_depth=1) == [[8]]


def test_llma_turns_from_the_prompt_to_the_newest_answer():
    llma = LLMA()
    for answer in ([1, 5, 5], [1, 6, 6]):
        request(llma, [9], answer)
        llma.end()
    request(llma, [3, 4], [1])
    assert drafted(llma) == [[6, 6]]
    llma.end()
    request(llma, [1, 4], [1])
    assert drafted(llma) == [[4]]
    assert llma.nbytes > 0


def published(*answers, branch_length=2):
    trie = PublishedTrie(branch_length)
    for answer in answers:
        request(trie, [], answer)
        trie.end()
    return trie


def test_the_published_trie_drafts_what_followed_the_last_two_tokens():
    trie = published([1, 5, 6, 7], [4, 5, 8])
    request(trie, [], [1, 5])
    assert drafted(trie) == [[6, 7]]
    request(trie, [], [0, 5])
    assert drafted(trie) == [[6, 7], [8]]
    assert drafted(trie, max_depth=1) == [[6], [8]]


def test_the_published_trie_learns_an_answer_a_branch_late():
    trie = published()
    request(trie, [], [1, 5, 6, 1])
    assert drafted(trie) == [[5, 6]]  # one token has three after it: it alone is remembered
    trie.learn(ids(5))
    trie.end()
    request(trie, [], [0, 6])
    assert drafted(trie) == [[1, 5]]


def test_the_published_trie_loses_a_prompt_after_an_end_of_sequence_token():
    trie = published()
    request(trie, [9, 1, 5, 6, 2, 3, 7, 8], [3])
    assert drafted(trie) == [[]]
    request(trie, [9, 1, 5, 6, 2, 3, 7, 8], [1])
    assert drafted(trie) == [[5, 6]]


def test_the_published_trie_lets_a_shorter_match_replace_a_longer_ones_draft():
    trie = published([1, 5, 6], [4, 5, 7, 7], [4, 5, 7, 7], branch_length=3)
    request(trie, [], [1, 5])
    assert drafted(trie) == [[6], [7, 7]]  # [6] alone is shorter than a branch
    assert drafted(trie, draft_tokens=2) == [[7, 7]]


def test_the_published_trie_drafts_an_earlier_prompts_branch():
    trie = published()
    request(trie, [9, 1, 5, 6])
    trie.end()
    request(trie, [9, 1, 7], [1])
    assert drafted(trie) == [[5, 6], [7]]


def test_the_published_trie_forgets_the_prompt_where_a_subtree_outgrows_the_draft():
    trie = published([1, 5, 6], [1, 5, 6], [1, 7, 8])
    request(trie, [9, 1, 3, 4], [1])
    assert drafted(trie) == [[3, 4], [5, 6], [7, 8]]
    assert drafted(trie, draft_tokens=3) == [
        [5, 6]
    ]  # six nodes; half of four must be said as often as [5, 6]


def test_the_published_trie_squeezes_large_subtrees_once_many_were_touched(monkeypatch):
    monkeypatch.setattr("research.peers.published_trie._SQUEEZED_AT", 2)
    monkeypatch.setattr("research.peers.published_trie._MAX_OUTPUT_NODES", 3)
    trie = published([1, 5, 6], [1, 5, 6, 7], [1, 8, 9])
    request(trie, [], [1])
    assert drafted(trie) == [[5, 6]]


def test_arctic_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(arctic, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps arctic-inference"):
        arctic.ArcticSuffixTree(arctic.BEST)


@pytest.mark.parametrize(("settings", "paths"), [(arctic.BEST, [[3, 4], [5]]), (arctic.DEFAULTS, [[3]])])
def test_arctic_drafts_from_earlier_answers(settings, paths):
    pytest.importorskip("arctic_inference")
    tree = arctic.ArcticSuffixTree(settings)
    for answer in ([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 5]):
        request(tree, [9], answer)
        tree.end()
    request(tree, [8], [2])
    assert drafted(tree) == paths
    assert drafted(tree, max_depth=0) == [[]]
    assert tree.nbytes > 0

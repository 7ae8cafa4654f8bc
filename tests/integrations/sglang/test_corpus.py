"""The corpus against recorded calls, and its trees as SGLang reads them."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.random_trees import random_tree
from helpers.sglang_engine import parents_of
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.errors import ConfigError, VocabularyMismatchError
from lookahead.integrations.sglang.corpus import SEPARATOR, LookaheadCorpus
from lookahead.integrations.sglang.follower import FollowerCorpus
from lookahead.integrations.sglang.trees import laid_out, masks

CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))
NODES = 8
TEXT = list(range(10, 40))


@pytest.fixture
def memory():
    return DraftMemory(max_bytes=2**20)


@pytest.fixture
def corpus(memory):
    return LookaheadCorpus(memory, NODES)


def draft(corpus, rid, tail, total):
    """The tokens and parents of one row."""
    tokens, mask = corpus.batch_get([rid], [tail], [total])
    nodes = corpus.draft_token_num
    assert tokens.dtype == mask.dtype == np.int64
    assert tokens.shape == (nodes,)
    assert mask.shape == (nodes * nodes,)
    return tokens.tolist(), parents_of(mask, 1, nodes)[0].tolist()


def drafted(corpus, rid, tail, total):
    """All tokens that are drafted after a row's text, padding left out."""
    tokens, _ = draft(corpus, rid, tail, total)
    return {token for token in tokens[1:] if token}


@given(st.integers(1, 40), st.integers(0, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_sglang_derives_from_the_mask_what_the_tree_says(size, lacking, seed, is_chain):
    tree, nodes = random_tree(size, seed), size + lacking
    tokens, parents = laid_out(tree, nodes, is_chain=is_chain)
    assert parents_of(masks(parents[None]), 1, nodes)[0].tolist() == parents.tolist()
    depths = [0]
    for parent in parents[1:size]:
        depths.append(depths[parent] + 1)
    assert depths == sorted(depths)

    def paths(tokens, parents):
        found = [(tokens[0],)]
        for node in range(1, len(tokens)):
            found.append((*found[parents[node]], tokens[node]))
        return sorted(found)

    there = paths(tokens[:size].tolist(), parents[:size].tolist())
    assert there == paths(tree.token_ids.tolist(), tree.parents.tolist())
    assert not tokens[size:].any()
    assert parents[size:].tolist() == (list(range(size - 1, nodes - 1)) if is_chain else [0] * lacking)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_node_sees_itself_and_its_ancestors(rows, nodes, seed):
    trees = [random_tree(nodes, seed + row) for row in range(rows)]
    parents = np.array([laid_out(tree, nodes, is_chain=False)[1] for tree in trees])
    seen = masks(parents)
    for row in range(rows):
        for node in range(nodes):
            path = {node}
            while parents[row, min(path)] >= 0:
                path.add(int(parents[row, min(path)]))
            assert set(np.flatnonzero(seen[row, node])) == path


def test_the_interface_is_that_of_the_worker():
    for kind in (LookaheadCorpus, FollowerCorpus):
        for name, arguments in CONTRACT["corpus_used_by_worker"].items():
            assert list(inspect.signature(getattr(kind, name)).parameters) == arguments, (kind, name)
    assert eval(CONTRACT["separator_token"], {}) == SEPARATOR  # noqa: S307  # our own record


def test_rows_of_a_batch_are_drafted_each_for_its_own_request(corpus):
    corpus.open("a", [*TEXT, 1, 10, 11])
    corpus.open("b", [*TEXT, 1, 20, 21])
    for order in (["a", "b"], ["b", "a"]):
        tails = {"a": [10, 11], "b": [20, 21]}
        tokens, mask = corpus.batch_get(order, [tails[rid] for rid in order], [33, 33])
        for row, rid in enumerate(order):
            want = 12 if rid == "a" else 22
            assert tokens.reshape(2, NODES)[row].tolist() == list(range(want - 1, want - 1 + NODES))
            assert parents_of(mask, 2, NODES)[row].tolist() == list(range(-1, NODES - 1))


def test_the_whole_prompt_is_drafted_from_though_only_its_end_is_handed_over(corpus):
    corpus.open("a", [*TEXT, 5, 10, 11])
    assert {12, 13, 14} <= drafted(corpus, "a", [11], 33)


def test_an_answer_is_remembered_once_and_only_up_to_its_end(memory, corpus):
    corpus.open("a", [5, 6], final_answer=lambda: [10, 11, 1])
    corpus.batch_get(["a"], [[5, 6, 10, 11, 1, 88]], [6])
    assert memory.namespaces == {}
    corpus.erase_match_state(["a"])
    corpus.erase_match_state(["a", "unknown"])
    assert memory.namespaces == {"default": 3}
    assert memory.store.snapshot()["tokens"].tolist() == [10, 11, 1, -1]


def test_without_the_end_all_that_was_handed_over_is_remembered(memory, corpus):
    corpus.batch_get(["a"], [[5, 6]], [2])
    corpus.batch_get(["a"], [[6, 10, 11]], [4])
    corpus.batch_get(["a"], [[11, 1, 88]], [6])
    corpus.erase_match_state(["a"])
    assert memory.store.snapshot()["tokens"].tolist() == [10, 11, 1, 88, -1]


def test_nothing_of_one_namespace_is_drafted_in_another(corpus):
    for rid, namespace, shift in (("a", "tenant", 0), ("b", "other", 100), ("c", None, 200)):
        corpus.open(rid, [5], namespace=namespace, final_answer=lambda: [7, *(t + shift for t in TEXT)])  # noqa: B023
        corpus.erase_match_state([rid])
    for namespace, shift in (("tenant", 0), ("other", 100), (None, 200), ("new", None)):
        corpus.open("next", [5, 7], namespace=namespace)
        found = drafted(corpus, "next", [7], 2)
        assert (10 + (shift or 0) in found) == (shift is not None)
        assert found <= (set() if shift is None else {token + shift for token in TEXT})


def test_equal_prompts_at_once_are_two_requests(memory, corpus):
    for rid in ("a", "b"):
        corpus.open(rid, [5, 6])
    corpus.batch_get(["a", "b"], [[6, 10, 11], [6, 20, 21]], [4, 4])
    corpus.erase_match_state(["b"])
    corpus.batch_get(["a"], [[11, 12]], [5])
    corpus.erase_match_state(["a"])
    assert memory.store.snapshot()["tokens"].tolist() == [20, 21, -1, 10, 11, 12, -1]


def test_a_request_that_comes_back_with_a_longer_prompt_is_remembered_once(memory, corpus):
    answer = [10, 11, 12]
    over = []

    def final_answer():
        return answer if over else None

    corpus.open("a", [5, 6], final_answer=final_answer)
    corpus.batch_get(["a"], [[6, 10, 11, 12]], [5])
    corpus.erase_match_state(["a"])  # preempted
    assert memory.namespaces == {}
    corpus.open("a", [5, 6], answered=answer, final_answer=final_answer)
    answer = [*answer, 13, 14]
    corpus.batch_get(["a"], [[12, 13, 14]], [7])
    over.append(True)
    corpus.erase_match_state(["a"])
    assert memory.store.snapshot()["tokens"].tolist() == [10, 11, 12, 13, 14, -1]


@pytest.mark.parametrize(
    ("tail", "total"),
    [([30, 31], 4), ([6, 10], 4), ([9, 9, 9, 9, 9], 7), ([31], 40)],
    ids=["shorter", "shorter still", "contradicting", "with a gap"],
)
def test_a_request_that_jumps_begins_anew(memory, corpus, tail, total):
    corpus.open("a", [5, 6, 7, 8], final_answer=lambda: [10, 11])
    corpus.batch_get(["a"], [[8, 10, 11]], [6])
    tokens, _ = draft(corpus, "a", tail, total)
    assert tokens[0] == tail[-1]
    draft(corpus, "a", [tail[-1], 77], total + 1)
    corpus.erase_match_state(["a"])
    assert memory.store.snapshot()["tokens"].tolist() == [10, 11, -1]


def test_a_prompt_that_arrives_in_chunks_is_no_answer(memory, corpus):
    corpus.open("a", TEXT[:10], final_answer=lambda: None)
    corpus.open("a", TEXT[:20], final_answer=lambda: None)
    corpus.open("a", [*TEXT, 10, 11], final_answer=lambda: [12, 13])
    assert drafted(corpus, "a", [11], 32) == set(range(12, 19))
    corpus.erase_match_state(["a"])
    assert memory.namespaces == {"default": 2}


def test_external_corpora_are_drafted_from_in_every_namespace(memory, corpus):
    chunks = [TEXT[:4], [*TEXT[4:6], SEPARATOR, *TEXT[10:14]], [SEPARATOR], [SEPARATOR, 90, 91]]
    assert corpus.load_external_corpus_named("manual", chunks) == 12
    corpus.commit_external_corpus_load("manual", 12)
    assert corpus.list_external_corpora() == {"manual": 12}
    assert memory.store.snapshot()["tokens"].tolist() == [*TEXT[:6], -1, *TEXT[10:14], -1, 90, 91, -1]
    corpus.open("a", [5, 10, 11], namespace="tenant")
    assert drafted(corpus, "a", [11], 3) == set(TEXT[2:6])
    assert LookaheadCorpus(memory, NODES).list_external_corpora() == {"manual": 12}
    assert corpus.load_external_corpus_named("manual", [[90, 91]]) == 2
    assert corpus.list_external_corpora() == {"manual": 2}
    corpus.remove_external_corpus("manual")
    corpus.remove_external_corpus("unknown")
    assert corpus.list_external_corpora() == memory.namespaces == {}


def test_a_corpus_with_a_long_name_is_kept(corpus):
    assert corpus.load_external_corpus_named("folder/" * 100, [[1, 2]]) == 2
    assert list(corpus.list_external_corpora().values()) == [2]
    corpus.remove_external_corpus("folder/" * 100)
    assert corpus.list_external_corpora() == {}


def test_a_corpus_that_cannot_be_remembered_is_refused(memory, corpus):
    memory.bind(vocabulary_size=50)
    with pytest.raises(ConfigError, match="'empty' has no tokens; give documents"):
        corpus.load_external_corpus_named("empty", [[SEPARATOR], []])
    with pytest.raises(VocabularyMismatchError):
        corpus.load_external_corpus_named("other", [[60]])


def test_a_reset_ends_requests_and_keeps_what_is_remembered(memory, corpus):
    corpus.open("a", [5], final_answer=lambda: [10, 11])
    corpus.reset()
    assert "a" not in corpus
    assert memory.namespaces == {"default": 2}


@pytest.mark.parametrize("prompt", [[5, 2**31 + 3, 7], [5, -1, 7], [5, 60, 7]])
def test_a_text_with_tokens_that_are_none_is_not_drafted(memory, corpus, prompt):
    memory.bind(vocabulary_size=50)
    corpus.open("a", prompt, final_answer=lambda: [10])
    assert draft(corpus, "a", [7, 8], 4) == ([8] + [0] * 7, [-1] + [0] * 7)
    corpus.erase_match_state(["a"])
    assert memory.namespaces == {}


def test_a_chain_has_one_branch_and_stays_one_when_it_is_padded(memory):
    corpus = LookaheadCorpus(memory, NODES, is_chain=True)
    for follower in (20, 30):
        corpus.open("a", [5], final_answer=lambda: [7, 8, follower, 9])  # noqa: B023
        corpus.erase_match_state(["a"])
    corpus.open("a", [7, 8])
    tokens, parents = draft(corpus, "a", [8], 2)
    assert parents == list(range(-1, NODES - 1))
    assert tokens[0] == 8
    assert tokens[3:] == [0] * 5


def test_nothing_is_remembered_where_that_is_off(memory):
    corpus = LookaheadCorpus(memory, NODES, remember=False)
    corpus.open("a", [5], final_answer=lambda: [7, 8])
    corpus.erase_match_state(["a"])
    assert memory.namespaces == {}


def test_another_rank_verifies_the_same_trees(memory):
    sent = []
    corpus = LookaheadCorpus(memory, NODES, share=lambda drafts: sent.append(drafts.copy()))
    follower = FollowerCorpus(NODES, lambda drafts: np.copyto(drafts, sent.pop()))
    corpus.open("a", [*TEXT, 10, 11])
    follower.open("a", [])
    assert "a" in follower
    call = (["a", "b"], [[11, 12], [3]], [33, 1])
    for mine, theirs in zip(corpus.batch_get(*call), follower.batch_get(*call), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert follower.load_external_corpus_named("x", [[1, 2, SEPARATOR], [3]]) == 3
    assert follower.list_external_corpora() == {}
    for done in (
        follower.batch_put([]),
        follower.synchronize(),
        follower.reset(),
        follower.erase_match_state([]),
        follower.commit_external_corpus_load("x", 3),
        follower.remove_external_corpus("x"),
    ):
        assert done is None


def test_room_for_the_current_token_is_needed(memory):
    with pytest.raises(ConfigError, match="draft_token_num=0 has no room"):
        LookaheadCorpus(memory, 0)

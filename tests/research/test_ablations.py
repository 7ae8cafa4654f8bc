"""The ablated stores: each takes out what it says."""

import pytest

from lookahead.config import DraftMode
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.token_trie import TokenTrie
from research.ablations import ABLATIONS


def drafted(store, prompt, answer=(), *, earlier=(), tokens=6):
    if earlier:
        store.insert("earlier", earlier[0], Origin.PROMPT)
        store.insert("earlier", earlier[1], Origin.OUTPUT)
        store.forget("earlier")
    store.open("now")
    store.insert("now", prompt, Origin.PROMPT)
    if answer:
        store.insert("now", answer, Origin.OUTPUT)
    tree: DraftTree = store.propose(
        "now", decoding_length=tokens, branch_length=4, mode=DraftMode.HIERARCHICAL
    )
    store.forget("now")
    return set(tree.token_ids.tolist()[1:])


@pytest.mark.parametrize("make", [TokenLog, TokenTrie])
def test_each_ablation_takes_out_what_it_says(make):
    in_prompt = {"prompt": [5, 6, 7, 5, 6]}
    in_answer = {"prompt": [9], "answer": [5, 6, 7, *range(20, 30), 5, 6]}
    in_earlier = {"prompt": [5, 6], "answer": [5, 6], "earlier": ([1], [5, 6, 7, 8])}
    in_earlier_prompt = {"prompt": [9], "answer": [5, 6], "earlier": ([5, 6, 7, 8], [3])}
    finds = {
        None: (True, True, True, False),
        "without-prompts": (False, True, True, False),
        "without-earlier-answers": (True, True, False, False),
        "without-answers": (True, False, False, False),
        "without-elimination": (True, True, True, True),
    }
    assert set(finds) == {None, *ABLATIONS}
    for name, expected in finds.items():
        found = tuple(
            7 in drafted(make() if name is None else ABLATIONS[name](make), **case)
            for case in (in_prompt, in_answer, in_earlier, in_earlier_prompt)
        )
        assert found == expected, name

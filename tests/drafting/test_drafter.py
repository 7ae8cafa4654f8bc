"""The requests' view of the memory: their prompts come with them and go with them."""

import numpy as np
import pytest

from helpers.step_times import known_times
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times_table import StepTimesTable
from lookahead.drafting.drafter import BatchDrafter, NoDrafter, RequestDrafter
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.token_trie import TokenTrie

pytestmark = pytest.mark.usefixtures("matches_alone")

SECONDS = {"model_s": 0.05, "cache_s": 0.0, "draft_s": 0.0001, "recycle_s": 0.0005}


class OneRow:
    """A batch of one row, so that a test need not name it."""

    def __init__(self, drafter, request=None):
        self.drafter, self.request = drafter, request

    def read(self, prompt):
        self.drafter.add(0, self.request, prompt)

    def propose(self, max_depth):
        return self.drafter.propose({0: max_depth})[0]

    def learn(self, tokens):
        self.drafter.learn(0, tokens)

    def recycle(self, draft, path, successors):
        self.drafter.recycle(0, draft, path, successors)

    def recycle_prompt(self, successors):
        self.drafter.recycle_prompt(0, successors)

    def __getattr__(self, name):
        return getattr(self.drafter, name)


def drafter_of(memory, max_nodes=16, *, branch_length=64):
    request = RequestDrafter(memory, branch_length=branch_length)
    controller = BudgetController(lambda _rows: max_nodes)
    return OneRow(BatchDrafter(controller, recycles=memory.recycles), request)


def test_drafts_from_the_prompt_and_from_what_was_learned():
    drafter = drafter_of(TokenTrie(), max_nodes=8)
    drafter.read([1, 2, 3])
    drafter.learn([4, 1])
    assert drafter.propose(max_depth=3).token_ids.tolist() == [1, 2, 3, 4]
    assert len(drafter.propose(max_depth=0)) == 1


def test_drafts_keep_to_the_settings():
    drafter = drafter_of(TokenTrie(), max_nodes=4, branch_length=2)
    drafter.read([1, 2, 3, 1, 4, 5, 1])
    draft = drafter.propose(max_depth=100)
    assert len(draft) == 4
    assert draft.depths.max() <= 2


def test_closing_forgets_the_prompt_and_keeps_the_answer():
    memory = TokenTrie()
    drafter = drafter_of(memory)
    drafter.read([50, 51])
    drafter.learn([1, 2, 3])
    drafter.close()
    assert sorted(set(memory.snapshot()["token"].tolist())) == [-1, 1, 2, 3]
    assert memory._requests == {}


def test_only_as_much_is_drafted_as_pays():
    table = StepTimesTable()
    table.put(1, 8, known_times((1, 2), (0.01, 0.10)))
    request = RequestDrafter(TokenLog(), branch_length=64)
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64), table)
    drafter = OneRow(BatchDrafter(controller, recycles=True), request)
    drafter.read([1, 2, 3, 1, 2, 3, 1, 2])
    assert len(drafter.propose(max_depth=9)) == 1


def test_what_the_model_held_likeliest_is_drafted_where_nothing_was_repeated():
    memory = TokenLog()
    drafter = drafter_of(memory)
    drafter.read([1, 2])
    draft = drafter.propose(max_depth=4)
    assert len(draft) == 1
    assert drafter.recycles
    drafter.learn([3])
    drafter.recycle(draft, [0], np.array([[3, 7, 8]], np.int32))
    drafter.learn([2])
    assert drafter.propose(max_depth=1).token_ids.tolist() == [2, 3, 7, 8]
    drafter.learn([7, 9])
    drafter.adapt({0: 4}, 2, SECONDS)
    assert drafter.recycled_tokens == 1


def test_the_accepted_paths_context_counts_as_read_last():
    drafter = drafter_of(TokenLog())
    drafter.read([1])
    #  1 ─ 5 ─ 6      5 stands twice: accepted below node 0, rejected below 6
    #      └── 5
    draft = DraftTree(
        np.array([1, 5, 6, 5], np.int32),
        np.array([-1, 0, 1, 1], np.int32),
        np.array([0, 1, 2, 2], np.int32),
        np.ones(4),
    )
    drafter.recycle(draft, [0, 1], np.array([[5], [6], [9], [10]], np.int32))
    drafter.learn([5])
    assert drafter.propose(max_depth=1).token_ids.tolist() == [5, 6]


def test_the_prompts_own_logits_are_recycled():
    drafter = drafter_of(TokenLog())
    drafter.read([5, 6, 7])
    drafter.learn([8])
    drafter.recycle_prompt(np.array([[40], [50], [60], [8]], np.int32))  # one more than the prompt has tokens
    drafter.learn([6])
    # 60 follows a 6, 7 did; 50 was likely after the 5
    assert sorted(drafter.propose(max_depth=1).token_ids.tolist()) == [6, 7, 50, 60]


def test_a_trie_does_not_recycle():
    assert not drafter_of(TokenTrie()).recycles


def test_without_a_memory_every_step_is_plain():
    drafter = OneRow(NoDrafter())
    drafter.learn([3, 4])
    assert drafter.propose(max_depth=5).token_ids.tolist() == [4]
    assert not drafter.recycles
    drafter.adapt({0: 1}, 1, {})
    drafter.close()


def test_each_row_drafts_from_its_own_prompt_and_all_within_one_budget():
    memory = TokenLog()
    requests = [RequestDrafter(memory, branch_length=9) for _ in range(2)]
    drafter = BatchDrafter(BudgetController(lambda _rows: 4), recycles=True)
    for row, prompt in enumerate([[1, 2, 3, 4, 5], [1, 7, 8, 9]]):
        drafter.add(row, requests[row], prompt)
    drafter.learn(0, [1])
    drafter.learn(1, [1])
    drafts = drafter.propose({0: 9, 1: 2})
    assert drafts[0].token_ids.tolist() == [1, 2, 3, 4]
    assert drafts[1].token_ids.tolist() == [1, 7, 8]
    assert list(drafter.propose({1: 1})) == [1]
    drafter.close()
    assert memory._requests == {}


def test_tokens_recycled_are_counted_over_all_rows():
    memory = TokenLog()
    requests = [RequestDrafter(memory, branch_length=9) for _ in range(2)]
    drafter = BatchDrafter(BudgetController(lambda _rows: 16), recycles=True)
    for row, prompt in enumerate([[1, 2], [1, 3]]):
        drafter.add(row, requests[row], prompt)
    for row, token in ((0, 2), (1, 3)):
        drafter.recycle(row, DraftTree.root_only(token), [0], np.array([[40 + row]], np.int32))
    for row in (0, 1):
        assert 40 + row in drafter.propose({0: 3, 1: 3})[row].token_ids
        drafter.learn(row, [40 + row, 9])
    assert drafter.recycled_tokens == 2


def test_keeping_the_accepted_path_is_part_of_what_a_forward_takes(monkeypatch):
    steps = []
    monkeypatch.setattr(BudgetController, "adapt", lambda _self, step: steps.append(step))
    drafter = drafter_of(TokenLog())
    drafter.read([1, 2])
    drafter.adapt({0: 4}, 2, {"model_s": 0.5, "cache_s": 0.25, "draft_s": 0.125})
    assert (steps[0].forward_s, steps[0].draft_s, steps[0].recycle_s) == (0.75, 0.125, 0.0)


def test_rows_join_and_leave_and_what_they_recycled_is_still_counted():
    memory = TokenLog()
    drafter = BatchDrafter(BudgetController(lambda _rows: 16), recycles=True)
    drafter.add(7, RequestDrafter(memory, branch_length=9), [1, 2])
    drafter.recycle(7, DraftTree.root_only(2), [0], np.array([[40]], np.int32))
    assert 40 in drafter.propose({7: 3})[7].token_ids
    drafter.learn(7, [40, 9])
    drafter.remove(7)
    assert memory._requests == {}
    drafter.add(7, RequestDrafter(memory, branch_length=9), [1, 3])  # a number may be used again
    assert drafter.recycled_tokens == 1


def test_step_times_follow_the_rows_and_the_longest_context(monkeypatch):
    steps, asked = [], []
    monkeypatch.setattr(BudgetController, "adapt", lambda _self, step: steps.append(step))
    memory = TokenLog()
    controller = BudgetController(lambda rows: asked.append(rows) or 8)
    drafter = BatchDrafter(controller, recycles=False)
    for row, length in ((0, 700), (1, 20)):
        drafter.add(row, RequestDrafter(memory, branch_length=9), [1] * length)
        drafter.learn(row, [5])
    drafter.propose({0: 1, 1: 1})
    drafter.propose({1: 1})
    assert asked[-2:] == [2, 1]  # the first one asks for the table of step times
    drafter.adapt({0: 3, 1: 2}, 2, SECONDS)
    drafter.adapt({1: 2}, 2, SECONDS)
    assert [(step.rows, step.context, step.nodes) for step in steps] == [(2, 701, 3), (1, 21, 2)]

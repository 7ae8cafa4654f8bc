"""The pace: what steps did and took decides how much is drafted, and whether logits are recycled."""

import numpy as np

from lookahead.drafting.budget.controller import BudgetController, StepReport, accepted_together
from lookahead.drafting.budget.policy import BudgetPolicy, StepTimes
from lookahead.drafting.tree import DraftTree

FLAT = StepTimes((1, 4, 64), (0.05, 0.0501, 0.0502))
STEEP = StepTimes((1, 2, 64), (0.05, 0.10, 5.0))
CHAIN = DraftTree(
    np.arange(4, dtype=np.int32),
    np.arange(-1, 3, dtype=np.int32),
    np.arange(4, dtype=np.int32),
    np.array([1.0, 0.5, 0.2, 0.1]),
)


def step(*, nodes=4, tokens=1, recycled_tokens=0, forward_s=0.05, recycle_s=0.001):
    return StepReport(
        nodes=nodes,
        tokens=tokens,
        recycled_tokens=recycled_tokens,
        forward_s=forward_s,
        draft_s=0.0001,
        recycle_s=recycle_s,
    )


def test_without_a_budget_drafts_stay_whole():
    pace = BudgetController(16)
    assert not pace.needs_measuring
    assert pace.cut([CHAIN, CHAIN]) == [CHAIN, CHAIN]


def test_with_a_budget_as_much_is_drafted_as_pays():
    for times, size in ((FLAT, 4), (STEEP, 1)):
        pace = BudgetController(64, BudgetPolicy(64))
        assert pace.needs_measuring
        pace.measured(times)
        assert not pace.needs_measuring
        assert len(pace.cut([CHAIN])[0]) == size


def test_steps_that_take_longer_than_believed_make_drafts_smaller():
    pace = BudgetController(64, BudgetPolicy(64))
    pace.measured(FLAT)
    for _ in range(50):
        pace.adapt(
            StepReport(nodes=4, tokens=1, recycled_tokens=0, forward_s=0.5, draft_s=0.0, recycle_s=0.0)
        )
        pace.adapt(
            StepReport(nodes=1, tokens=1, recycled_tokens=0, forward_s=0.05, draft_s=0.0, recycle_s=0.0)
        )
    assert len(pace.cut([CHAIN])[0]) == 1


def test_recycling_that_brings_nothing_switches_itself_off_and_tries_again_later():
    pace = BudgetController(16)
    rounds = []
    for _ in range(3000):
        rounds.append(pace.recycles)
        pace.adapt(step(recycle_s=0.001 if pace.recycles else 0.0))
    assert rounds[:128] == [True] * 128
    assert rounds[128:1152] == [False] * 1024
    assert rounds[1152]


def test_recycling_that_spares_more_than_it_costs_stays_on():
    pace = BudgetController(16)
    for number in range(2000):
        assert pace.recycles
        pace.adapt(step(tokens=2, recycled_tokens=1 if number % 10 == 0 else 0))


def test_rows_that_wait_for_each_other_are_accepted_together_or_not_at_all():
    tree = DraftTree(
        np.array([9, 1, 2], np.int32),
        np.array([-1, 0, 0], np.int32),
        np.array([0, 1, 1], np.int32),
        np.array([1.0, 0.5, 0.25]),
    )
    chances = accepted_together([CHAIN, tree])
    np.testing.assert_allclose(chances[0], [1.0, 0.5 * 0.75, 0.0, 0.0])
    np.testing.assert_allclose(chances[1], [1.0, 0.5 * 0.5, 0.25 * 0.5])


def test_rows_that_wait_for_each_other_draft_less():
    certain, doubtful = DraftTree.chain([1] * 8, 0.95), DraftTree.chain([1] * 8, 0.3)
    pace = BudgetController(64, BudgetPolicy(64))
    pace.measured(StepTimes((1, 64), (0.05, 0.2)))
    alone = [len(draft) for draft in pace.cut([certain, doubtful])]
    together = [len(draft) for draft in pace.cut([certain, doubtful], lockstep=True)]
    assert together < alone
    assert alone[0] == alone[1] == 8  # a forward is a rectangle: the second row's nodes are free

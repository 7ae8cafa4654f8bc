"""The controller: what steps did and took decides how much is drafted, and whether logits are recycled."""

import numpy as np

from helpers.step_times import known_times
from lookahead.drafting.budget.controller import BudgetController, StepReport, accepted_together
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times_table import StepTimesTable
from lookahead.drafting.tree import DraftTree

FLAT = known_times((1, 4, 64), (0.05, 0.0501, 0.0502))
STEEP = known_times((1, 2, 64), (0.05, 0.10, 5.0))
ONE_ROW, TWO_ROWS = {"rows": 1, "context": 100}, {"rows": 2, "context": 100}
CHAIN = DraftTree(
    np.arange(4, dtype=np.int32),
    np.arange(-1, 3, dtype=np.int32),
    np.arange(4, dtype=np.int32),
    np.array([1.0, 0.5, 0.2, 0.1]),
)


def step(*, nodes=4, tokens=1, recycled_tokens=0, forward_s=0.05, recycle_s=0.001):
    return StepReport(
        **ONE_ROW,
        nodes=nodes,
        tokens=tokens,
        recycled_tokens=recycled_tokens,
        forward_s=forward_s,
        draft_s=0.0001,
        recycle_s=recycle_s,
    )


def with_times(times_by_rows, context=100):
    table = StepTimesTable()
    for rows, times in times_by_rows.items():
        table.put(rows, context, times)
    return BudgetController(lambda _rows: 64, BudgetPolicy(64), table)


def test_without_a_budget_drafts_stay_whole():
    controller = BudgetController(lambda _rows: 16)
    assert controller.cut([CHAIN, CHAIN], **TWO_ROWS) == [CHAIN, CHAIN]


def test_with_a_budget_as_much_is_drafted_as_pays():
    for times, size in ((FLAT, 4), (STEEP, 1)):
        controller = with_times({1: times})
        assert len(controller.cut([CHAIN], **ONE_ROW)[0]) == size


def test_steps_that_take_longer_than_believed_make_drafts_smaller():
    controller = with_times({1: FLAT})
    for _ in range(50):
        controller.adapt(step(nodes=4, tokens=1, recycled_tokens=0, forward_s=0.5, recycle_s=0.0))
        controller.adapt(step(nodes=1, tokens=1, recycled_tokens=0, forward_s=0.05, recycle_s=0.0))
    assert len(controller.cut([CHAIN], **ONE_ROW)[0]) == 1


def test_recycling_that_brings_nothing_switches_itself_off_and_tries_again_later():
    controller = BudgetController(lambda _rows: 16)
    rounds = []
    for _ in range(3000):
        rounds.append(controller.recycles)
        controller.adapt(step(recycle_s=0.001 if controller.recycles else 0.0))
    assert rounds[:128] == [True] * 128
    assert rounds[128:1152] == [False] * 1024
    assert rounds[1152]


def test_recycling_that_spares_more_than_it_costs_stays_on():
    controller = BudgetController(lambda _rows: 16)
    for number in range(2000):
        assert controller.recycles
        controller.adapt(step(tokens=2, recycled_tokens=1 if number % 10 == 0 else 0))


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
    controller = with_times({2: known_times((1, 64), (0.05, 0.2))})
    alone = [len(draft) for draft in controller.cut([certain, doubtful], **TWO_ROWS)]
    together = [len(draft) for draft in controller.cut([certain, doubtful], **TWO_ROWS, lockstep=True)]
    assert together < alone
    assert alone[0] == alone[1] == 8  # a forward is a rectangle: the second row's nodes are free


def test_step_times_are_looked_up_by_rows_and_context():
    controller = with_times({1: FLAT, 4: STEEP})
    assert len(controller.cut([CHAIN], rows=1, context=100)[0]) == 4
    assert len(controller.cut([CHAIN], rows=4, context=100)[0]) == 1


def test_steps_of_one_bucket_say_nothing_of_another():
    table = StepTimesTable()
    for context in (100, 1000):
        table.put(1, context, FLAT)
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64), table)
    for _ in range(50):
        controller.adapt(step(nodes=4, forward_s=0.5))
        controller.adapt(step(nodes=1, forward_s=0.05))
    assert table.curve(1, 1000) is FLAT
    assert table.seconds(4, 1, 100) > 2 * table.seconds(4, 1, 1000)


def test_the_first_step_of_a_model_is_plain_and_the_next_is_not():
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
    assert len(controller.cut([CHAIN], **ONE_ROW)[0]) == 1
    controller.adapt(step(nodes=1))
    assert len(controller.cut([CHAIN], **ONE_ROW)[0]) > 1

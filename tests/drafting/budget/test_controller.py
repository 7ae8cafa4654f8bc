"""The controller: what steps did and took decides how much is drafted, and whether logits are recycled."""

import numpy as np
import pytest

from lookahead.drafting.budget.controller import BudgetController, StepReport, accepted_together
from lookahead.drafting.budget.policy import BudgetPolicy
from lookahead.drafting.budget.step_times import StepTimes, StepTimesTable
from lookahead.drafting.tree import DraftTree

FLAT = StepTimes((1, 4, 64), (0.05, 0.0501, 0.0502))
STEEP = StepTimes((1, 2, 64), (0.05, 0.10, 5.0))
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


def test_without_a_budget_drafts_stay_whole():
    controller = BudgetController(lambda _rows: 16)
    assert not controller.needs_measuring(1, 100)
    assert controller.cut([CHAIN, CHAIN], **TWO_ROWS) == [CHAIN, CHAIN]


def test_with_a_budget_as_much_is_drafted_as_pays():
    for times, size in ((FLAT, 4), (STEEP, 1)):
        controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
        assert controller.needs_measuring(1, 100)
        controller.measured(1, 100, times)
        assert not controller.needs_measuring(1, 100)
        assert len(controller.cut([CHAIN], **ONE_ROW)[0]) == size


def test_steps_that_take_longer_than_believed_make_drafts_smaller():
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
    controller.measured(1, 100, FLAT)
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
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
    controller.measured(2, 100, StepTimes((1, 64), (0.05, 0.2)))
    alone = [len(draft) for draft in controller.cut([certain, doubtful], **TWO_ROWS)]
    together = [len(draft) for draft in controller.cut([certain, doubtful], **TWO_ROWS, lockstep=True)]
    assert together < alone
    assert alone[0] == alone[1] == 8  # a forward is a rectangle: the second row's nodes are free


def test_step_times_are_looked_up_by_rows_and_context():
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
    controller.measured(1, 100, FLAT)
    controller.measured(4, 100, STEEP)
    assert controller.needs_measuring(1, 600)
    assert not controller.needs_measuring(3, 512)
    assert len(controller.cut([CHAIN], rows=1, context=100)[0]) == 4
    assert len(controller.cut([CHAIN], rows=4, context=100)[0]) == 1


def test_steps_of_one_bucket_say_nothing_of_another_measured_one():
    controller = BudgetController(lambda _rows: 64, BudgetPolicy(64))
    controller.measured(1, 100, FLAT)
    controller.measured(1, 1000, FLAT)
    for _ in range(50):
        controller.adapt(step(nodes=4, forward_s=0.5))
        controller.adapt(step(nodes=1, forward_s=0.05))
    times = controller._times
    assert times.curve(1, 1000) == FLAT
    assert times.seconds(4, 1, 100) > 2 * times.seconds(4, 1, 1000)


def test_a_bucket_that_was_not_measured_begins_with_what_is_on_disk_else_with_the_nearest():
    kept = {(1, 4096): STEEP}
    table = StepTimesTable(lambda rows, context: kept.get((rows, context)))
    assert table.curve(1, 4000) is None  # nothing was measured yet: measuring asks the disk itself
    assert not table
    table.put(1, 100, FLAT)
    assert table.curve(1, 4000) == STEEP
    assert table.curve(1, 900) == FLAT
    assert table.curve(2, 900) == StepTimes(FLAT.sizes, tuple(FLAT.seconds_for(2 * n) for n in FLAT.sizes))
    assert table.seconds(64, 1, 100) == FLAT.seconds_for(64)
    assert table.seconds(64, 4, 100) == pytest.approx(FLAT.seconds_for(64))


def test_an_estimated_bucket_is_still_to_be_measured():
    table = StepTimesTable()
    table.put(1, 100, FLAT)
    assert table.curve(1, 900) == FLAT
    assert not table.knows(1, 900)
    table.adapt(1, 900, STEEP)
    assert not table.knows(1, 900)
    table.put(1, 900, STEEP)
    assert table.knows(1, 900)

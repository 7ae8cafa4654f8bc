"""The scheduler without a model: budgets hold, every request gets on, no later one overtakes."""

from itertools import count
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lookahead.engine import scheduler
from lookahead.engine.scheduler import Scheduler, SchedulerLimits
from lookahead.errors import QueueFullError, RequestTooLongError

LIMITS = {
    "max_rows": 3,
    "max_step_tokens": 16,
    "max_cached_tokens": 10_000,
    "max_request_tokens": 5000,
    "max_queued": 50,
    "max_queued_tokens": 50_000,
}
SIZES = st.sampled_from([1, 2, 8, 20, 40, 60])


class Simulation:
    """A model runner of numbers: rows read and decode what the scheduler says, and each step is checked.

    Attributes:
        lengths: Tokens of prompt and answer so far, by request under way.
        ends: What they are when the answer has its most tokens.
        held: Tokens of each row.
        admitted: Requests in the order in which they were first given a row.
        preempted: Requests that gave their row back, as often as they did.
        done: Requests whose answers ended, in order.
    """

    def __init__(self, **limits):
        self.scheduler = Scheduler(SchedulerLimits(**{**LIMITS, **limits}))
        self.limits = self.scheduler.limits
        self.lengths, self.ends, self.held = {}, {}, {}
        self.admitted, self.preempted, self.done = [], [], []

    def add(self, request_id, prompt, new, priority=0):
        self.scheduler.add(request_id, priority=priority, prompt_tokens=prompt, max_new_tokens=new)
        self.lengths[request_id], self.ends[request_id] = prompt, prompt + new

    def cancel(self, request_id):
        assert self.scheduler.remove(request_id) == (request_id in self.held)
        self.forget(request_id)

    def forget(self, request_id):
        del self.lengths[request_id], self.ends[request_id]
        self.held.pop(request_id, None)

    def step(self, accepted=0, prefix=0):
        """Do one step and return its plan.

        Args:
            accepted: Drafted tokens that each row accepts, as far as the plan allows that many drafts.
            prefix: Tokens that the prefix cache holds of each prompt.
        """
        self.admit(prefix)
        plan = self.scheduler.plan()
        self.check(plan)
        left, decoding = plan.max_draft_tokens, {}
        for request_id in plan.decodes:
            drafts = min(accepted, left, self.ends[request_id] - self.lengths[request_id] - 1)
            left -= drafts
            self.held[request_id] += 1 + drafts
            self.lengths[request_id] += 1 + drafts
            decoding[request_id] = self.lengths[request_id]
        for request_id, tokens in plan.reads.items():
            self.held[request_id] += tokens
            if self.held[request_id] == self.lengths[request_id]:  # else an answer that is read anew
                self.lengths[request_id] += 1
            if self.held[request_id] == self.lengths[request_id] - 1:
                decoding[request_id] = self.lengths[request_id]
        for request_id in plan.requests:
            if self.lengths[request_id] == self.ends[request_id]:
                assert self.scheduler.remove(request_id)
                self.forget(request_id)
                self.done.append(request_id)
            else:
                self.scheduler.advance({request_id: self.held[request_id]}, decoding)
        return plan

    def admit(self, prefix):
        before = sorted(self.scheduler.running.values(), key=lambda entry: entry.rank)
        was_too_full = sum(entry.reserved for entry in before) > self.limits.max_cached_tokens
        preempted, admitted = self.scheduler.admit()
        waiting, running = self.scheduler.waiting, self.scheduler.running
        kept = [entry.request_id for entry in before][: len(before) - len(preempted)]
        assert (
            preempted == [entry.request_id for entry in before[::-1]][: len(preempted)]
        )  # the last in order
        assert bool(preempted) == (was_too_full and len(before) > 1)
        assert kept or not before
        assert set(running) == {*kept, *admitted}
        if admitted and waiting:  # a later one does not overtake
            assert max(running[one].rank for one in admitted) < min(entry.rank for entry in waiting.values())
        self.preempted += preempted
        self.admitted += [one for one in admitted if one not in self.admitted]
        for request_id in preempted:
            del self.held[request_id]
        for request_id in admitted:
            self.held[request_id] = min(prefix, running[request_id].prompt_tokens - 1)
            self.scheduler.started(request_id, held=self.held[request_id])

    def check(self, plan):
        running = sorted(self.scheduler.running.values(), key=lambda entry: entry.rank)
        reserved = sum(entry.reserved for entry in running)
        assert len(running) <= self.limits.max_rows
        assert reserved <= self.limits.max_cached_tokens or len(running) == 1
        assert self.scheduler.cache_room == max(0, self.limits.max_cached_tokens - reserved)
        read = sum(plan.reads.values())
        assert plan.max_draft_tokens >= 0
        assert read + len(plan.decodes) + plan.max_draft_tokens <= self.limits.max_step_tokens
        appended = read + len(plan.decodes) + plan.max_draft_tokens
        assert sum(self.held.values()) + appended <= self.limits.max_cached_tokens
        assert bool(plan.requests) == bool(running or self.scheduler.waiting)
        assert list(plan.decodes) == [entry.request_id for entry in running if entry.is_decoding]
        reading = [entry for entry in running if not entry.is_decoding]
        assert all(0 < tokens <= self.scheduler.running[one].unread for one, tokens in plan.reads.items())
        if reading:
            first, left = reading[0], self.limits.max_step_tokens - len(plan.decodes)
            assert plan.reads[first.request_id] >= min(first.unread, (left + 1) // 2)
            assert read == min(left, sum(entry.unread for entry in reading))

    def finish(self, accepted=0, prefix=0):
        """Do steps until all have ended: each of them gets the first in order on by a token."""
        most = len(self.ends) * sum(self.ends.values())
        for _ in range(most):
            if not self.ends:
                break
            self.step(accepted, prefix)
        assert not self.ends
        assert not self.scheduler.running
        assert not self.scheduler.waiting


class LifeOfAScheduler(RuleBasedStateMachine):
    """Requests come at any time, with any priority, and some are cancelled.

    The cache is small, and little room is left to grow, so that requests are preempted often.
    """

    def __init__(self):
        super().__init__()
        self.little_growth = patch.object(scheduler, "_GROWTH_TOKENS", 4)
        self.little_growth.start()

    @initialize(
        rows=st.sampled_from([1, 2, 3, 4, 4]),
        more=st.integers(0, 20),
        max_cached_tokens=st.sampled_from([40, 90, 110, 130, 200]),
        max_queued=st.sampled_from([0, 2, 8, 50]),
        max_queued_tokens=st.sampled_from([60, 1000, 1000]),
    )
    def create(self, rows, more, max_cached_tokens, max_queued, max_queued_tokens):
        self.simulation = Simulation(
            max_rows=rows,
            max_step_tokens=2 * rows + more,
            max_cached_tokens=max_cached_tokens,
            max_request_tokens=100,
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
        )
        self.numbers, self.priorities, self.cancelled = count(), {}, set()

    @rule(prompt=SIZES, new=SIZES, priority=st.sampled_from([0, 0, 0, -1, 1]))
    def arrive(self, prompt, new, priority):
        request_id, own, limits = next(self.numbers), self.simulation.scheduler, self.simulation.limits
        waiting, running = dict(own.waiting), dict(own.running)
        queued = sum(entry.prompt_tokens for entry in waiting.values())
        error = None
        if prompt + new > min(limits.max_request_tokens, limits.max_cached_tokens):
            error = RequestTooLongError
        elif len(running) + len(waiting) >= limits.max_rows + limits.max_queued or (
            waiting and queued + prompt > limits.max_queued_tokens
        ):
            error = QueueFullError
        if error is None:
            self.simulation.add(request_id, prompt, new, priority)
            self.priorities[request_id] = priority
        else:
            with pytest.raises(error):
                self.simulation.add(request_id, prompt, new, priority)
            assert (own.waiting, own.running) == (waiting, running)

    @rule(data=st.data(), is_wanted=st.sampled_from([True, False, False]))
    def cancel(self, data, is_wanted):
        if is_wanted and self.simulation.ends:
            request_id = data.draw(st.sampled_from(sorted(self.simulation.ends)))
            self.simulation.cancel(request_id)
            self.cancelled.add(request_id)

    @rule(steps=st.integers(1, 8), accepted=st.integers(0, 4), prefix=st.sampled_from([0, 0, 20]))
    def steps(self, steps, accepted, prefix):
        for _ in range(steps):
            self.simulation.step(accepted, prefix)

    @invariant()
    def first_come_first_served_within_a_priority(self):
        for priority in (-1, 0, 1):
            admitted = [one for one in self.simulation.admitted if self.priorities[one] == priority]
            assert admitted == sorted(admitted)

    def teardown(self):
        if hasattr(self, "simulation"):
            self.simulation.finish()
            assert sorted([*self.simulation.done, *self.cancelled]) == sorted(self.priorities)
        self.little_growth.stop()


LifeOfAScheduler.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestLifeOfAScheduler = LifeOfAScheduler.TestCase


def test_waiting_requests_are_admitted_by_priority_then_by_arrival():
    simulation = Simulation(max_rows=1, max_step_tokens=2)
    for request_id, priority in enumerate([1, 0, 1, -1, 0]):
        simulation.add(request_id, 3, 2, priority)
    simulation.finish()
    assert simulation.admitted == simulation.done == [3, 1, 4, 0, 2]


def test_a_short_prompt_does_not_wait_for_a_long_one():
    simulation = Simulation(max_step_tokens=256)
    simulation.add(0, 2000, 10)
    assert simulation.step().reads == {0: 256}
    simulation.add(1, 50, 10)
    assert simulation.step().reads == {0: 206, 1: 50}
    assert simulation.step().decodes == [1]


def test_rows_that_decode_come_before_prompts_and_drafts_get_what_is_left():
    simulation = Simulation()
    simulation.add(0, 4, 50)
    assert simulation.step().max_draft_tokens == 12
    assert simulation.step().max_draft_tokens == 15
    simulation.add(1, 10, 50)
    plan = simulation.step(accepted=2)
    assert (plan.decodes, plan.reads, plan.max_draft_tokens) == ([0], {1: 10}, 5)
    simulation.add(2, 40, 50)
    plan = simulation.step()
    assert (plan.decodes, plan.reads, plan.max_draft_tokens) == ([0, 1], {2: 14}, 0)


def test_a_full_cache_lets_the_last_request_start_anew_and_all_end():
    simulation = Simulation(max_cached_tokens=200)
    for request_id in range(3):
        simulation.add(request_id, 2, 110)
    simulation.finish()
    assert simulation.preempted == [1]
    assert simulation.done == [0, 1, 2]


def test_a_preempted_request_is_read_anew_with_its_answer_so_far():
    simulation = Simulation(max_cached_tokens=150)
    simulation.add(0, 2, 100)
    simulation.add(1, 2, 100)
    while not simulation.preempted:
        simulation.step()
    answered = simulation.lengths[1] - 2
    assert answered > 50
    assert simulation.scheduler.waiting[1].unread == 2 + answered - 1  # the last token is the current one
    simulation.finish()
    assert simulation.done == [0, 1]


def test_what_can_never_be_served_is_refused_at_once():
    with pytest.raises(RequestTooLongError, match="more than the 120 tokens"):
        Simulation(max_request_tokens=120).add(0, 100, 21)
    with pytest.raises(RequestTooLongError, match="more than the 80 tokens"):
        Simulation(max_cached_tokens=80).add(0, 60, 21)
    Simulation(max_request_tokens=120).add(0, 100, 20)


def test_a_full_queue_refuses():
    simulation = Simulation(max_rows=1, max_queued=1)
    simulation.add(0, 10, 5)
    simulation.step()
    simulation.add(1, 10, 5)
    with pytest.raises(QueueFullError, match="1 requests wait"):
        simulation.add(2, 10, 5)
    tokens = Simulation(max_queued_tokens=30)
    tokens.add(0, 20, 5)
    with pytest.raises(QueueFullError, match="have 20 of at most 30 tokens"):
        tokens.add(1, 11, 5)

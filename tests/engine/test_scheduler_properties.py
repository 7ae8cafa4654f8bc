"""The scheduler without a model: budgets hold, everybody gets on, nobody overtakes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead.engine.scheduler import Scheduler, SchedulerLimits
from lookahead.errors import QueueFullError, RequestTooLongError

LIMITS = {
    "max_rows": 3,
    "max_step_tokens": 16,
    "max_cached_tokens": 150,
    "max_request_tokens": 120,
    "max_queued": 50,
    "max_queued_tokens": 5000,
}


class Simulation:
    """A model runner of numbers: rows that read and decode what the scheduler says."""

    def __init__(self, **limits):
        self.scheduler = Scheduler(SchedulerLimits(**{**LIMITS, **limits}))
        self.lengths, self.ends, self.held, self.admitted, self.done = {}, {}, {}, [], []
        self.preempted = []

    def add(self, request_id, prompt, new, priority=0):
        self.scheduler.add(request_id, priority=priority, prompt_tokens=prompt, max_new_tokens=new)
        self.lengths[request_id], self.ends[request_id] = prompt, prompt + new

    def step(self, accepted=1, prefix=0):
        """Do one step; each row that decodes emits up to `accepted` tokens. Return the plan."""
        scheduler, limits = self.scheduler, self.scheduler.limits
        ranks = {entry.request_id: entry.rank for entry in scheduler.running.values()}
        preempted, admitted = scheduler.admit()
        assert preempted == sorted(preempted, key=ranks.get, reverse=True)
        for request_id in preempted:
            assert all(ranks[request_id] > ranks[other] for other in scheduler.running if other in ranks)
        self.preempted += preempted
        self.admitted += admitted
        for request_id in admitted:
            self.held[request_id] = min(prefix, scheduler.running[request_id].prompt_tokens - 1)
            scheduler.started(request_id, held=self.held[request_id])
        assert len(scheduler.running) <= limits.max_rows
        plan = scheduler.plan()
        assert sum(plan.reads.values()) + len(plan.decodes) + max(0, plan.max_draft_tokens) <= (
            limits.max_step_tokens
        )
        assert not scheduler.running or plan.requests
        reading = [entry for entry in scheduler.running.values() if entry.unread > 0]
        if reading:
            first = min(reading, key=lambda entry: entry.rank)
            left = limits.max_step_tokens - len(plan.decodes)
            assert plan.reads[first.request_id] >= min(first.unread, left // 2)
        drafts = max(0, plan.max_draft_tokens)
        self._advance(plan, accepted)
        total = sum(self.held[request_id] for request_id in scheduler.running)
        assert total + drafts <= limits.max_cached_tokens or len(scheduler.running) == 1
        return plan

    def _advance(self, plan, accepted):
        decoding = {}
        for request_id, count in plan.reads.items():
            self.held[request_id] += count
            if self.scheduler.running[request_id].prompt_tokens == self.held[request_id]:
                if self.held[request_id] == self.lengths[request_id]:
                    self.lengths[request_id] += 1
                decoding[request_id] = self.lengths[request_id]
        emitted = min(accepted, 1 + max(0, plan.max_draft_tokens) // max(1, len(plan.decodes)))
        for request_id in plan.decodes:
            more = min(emitted, self.ends[request_id] - self.lengths[request_id])
            self.held[request_id] += more
            self.lengths[request_id] += more
            decoding[request_id] = self.lengths[request_id]
        for request_id in plan.requests:
            if self.lengths[request_id] >= self.ends[request_id]:
                self.scheduler.remove(request_id)
                self.done.append(request_id)
            else:
                self.scheduler.advance({request_id: self.held[request_id]}, decoding)


arrivals = st.lists(
    st.tuples(
        st.integers(1, 60),  # prompt
        st.integers(1, 60),  # answer
        st.integers(-1, 1),  # priority
        st.integers(0, 5),  # steps before it arrives
        st.booleans(),  # is cancelled when the next one arrives
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=200)
@given(arrivals, st.integers(1, 4), st.sampled_from([0, 20]))
def test_budgets_hold_and_every_request_ends(asked, accepted, prefix):
    simulation, cancelled = Simulation(), set()
    for request_id, (prompt, new, priority, steps, is_cancelled) in enumerate(asked):
        for _ in range(steps):
            simulation.step(accepted, prefix)
        simulation.add(request_id, prompt, new, priority)
        if is_cancelled and request_id not in simulation.done:
            simulation.scheduler.remove(request_id)
            cancelled.add(request_id)
    for _ in range(4000):
        if not simulation.scheduler.running and not simulation.scheduler.waiting:
            break
        simulation.step(accepted, prefix)
    assert sorted(simulation.done) == [index for index in range(len(asked)) if index not in cancelled]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 1)), min_size=1, max_size=10))
def test_waiting_requests_are_admitted_by_priority_then_by_arrival(asked):
    simulation = Simulation(max_cached_tokens=10_000)
    for request_id, (prompt, priority) in enumerate(asked):
        simulation.add(request_id, prompt, 5, priority)
    while simulation.scheduler.running or simulation.scheduler.waiting:
        simulation.step()
    order = sorted(range(len(asked)), key=lambda request_id: (asked[request_id][1], request_id))
    assert simulation.admitted == order
    assert simulation.preempted == []


def test_a_short_prompt_does_not_wait_for_a_long_one():
    limits = {"max_step_tokens": 256, "max_cached_tokens": 10_000, "max_request_tokens": 5000}
    simulation = Simulation(**limits)
    simulation.add(0, 2000, 10)
    assert simulation.step().reads == {0: 256}
    simulation.add(1, 50, 10)
    assert simulation.step().reads == {0: 206, 1: 50}


def test_a_full_cache_lets_the_last_request_start_anew_and_all_end():
    simulation = Simulation(max_cached_tokens=200, max_request_tokens=200)
    for request_id in range(3):
        simulation.add(request_id, 2, 110)
    while simulation.scheduler.running or simulation.scheduler.waiting:
        simulation.step()
    assert simulation.preempted == [1]
    assert simulation.done[0] == 0
    assert sorted(simulation.done) == [0, 1, 2]


def test_what_can_never_be_served_is_refused_at_once():
    simulation = Simulation()
    with pytest.raises(RequestTooLongError, match="more than the 120 tokens"):
        simulation.add(0, 100, 21)
    with pytest.raises(RequestTooLongError, match="more than the 80 tokens"):
        Simulation(max_cached_tokens=80).add(0, 60, 21)
    assert simulation.scheduler.waiting == {}


def test_a_full_queue_refuses():
    simulation = Simulation(max_rows=1, max_queued=1, max_queued_tokens=30)
    simulation.add(0, 10, 5)
    simulation.step()
    simulation.add(1, 10, 5)
    with pytest.raises(QueueFullError, match="1 requests wait"):
        simulation.add(2, 10, 5)
    tokens = Simulation(max_queued_tokens=30)
    tokens.add(0, 20, 5)
    with pytest.raises(QueueFullError, match="have 20 of at most 30 tokens"):
        tokens.add(1, 11, 5)

"""The engine's thread with a runner of numbers: submit, cancel, drain, faults."""

import asyncio
import threading
import time

import pytest

from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.protocol import Progress
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.errors import EngineClosedError, QueueFullError
from lookahead.stats import GenerationStats

BEGIN, STEP = "begin", "step"


class Counting:
    """A runner that answers with 0, 1, 2, …; some prompts make it fail.

    Args:
        gate: Each step waits for it, if it is given.
    """

    FAILS_TO_BEGIN, FAILS_IN_STEP, FAILS_ALONE = 100, 101, 102

    def __init__(self, max_rows=2, gate=None):
        self.max_rows, self.max_request_tokens, self.max_cached_tokens = max_rows, 1000, 10_000
        self.stats, self.prefix_tokens, self.gate = GenerationStats(), (0, 0, 0), gate
        self.rows, self.is_closed, self.most_rows = {}, False, 0

    def prepare(self, request):
        return {"request": request, "emitted": 0}

    def length(self, state):
        return len(state["request"].prompt_ids) + state["emitted"]

    def begin(self, request_id, state):
        if state["request"].prompt_ids[0] == self.FAILS_TO_BEGIN:
            raise RuntimeError(BEGIN)
        self.rows[request_id] = state
        self.most_rows = max(self.most_rows, len(self.rows))
        return 0

    def step(self, plan, publish):
        del publish
        if self.gate is not None:
            self.gate.acquire(timeout=30)
        if any(self.rows[row]["request"].prompt_ids[0] == self.FAILS_IN_STEP for row in plan.requests):
            raise RuntimeError(STEP)
        return {row: self._progress(self.rows[row]) for row in plan.requests}

    def _progress(self, state):
        request = state["request"]
        if request.prompt_ids[0] == self.FAILS_ALONE:
            return Progress(error=RuntimeError("alone"))
        state["emitted"] += 1
        return Progress(
            held=len(request.prompt_ids) + state["emitted"] - 1,
            is_decoding=True,
            tokens=[state["emitted"] - 1],
            is_finished=state["emitted"] == request.max_tokens,
        )

    def release(self, request_id):
        del self.rows[request_id]

    def end(self, request_id, state):
        del state
        self.rows.pop(request_id, None)

    def shrink_prefixes(self, max_tokens):
        pass

    def close(self):
        self.is_closed = True


def engine_of(runner, **settings):
    return LocalEngine(runner, EngineSettings(**settings))


def ask(first=1, count=5):
    return Request(prompt_ids=[first, 2], max_tokens=count)


def test_answers_come_in_order_and_rows_are_bounded():
    with engine_of(Counting()) as engine:
        streams = [engine.submit(ask(count=count)) for count in range(1, 8)]
        assert [stream.result(30).tokens for stream in streams] == [tuple(range(n)) for n in range(1, 8)]
        assert engine._runner.most_rows == 2
        assert engine.stats().finished == {"length": 7}
    assert engine._runner.is_closed
    assert not engine._thread.is_alive()


@pytest.mark.parametrize(("first", "message"), [(100, "begin"), (102, "alone")])
def test_a_fault_of_one_request_ends_it_alone(first, message):
    with engine_of(Counting()) as engine:
        good, bad = engine.submit(ask()), engine.submit(ask(first))
        with pytest.raises(RuntimeError, match=message):
            bad.result(30)
        assert good.result(30).tokens == (0, 1, 2, 3, 4)
        assert engine.submit(ask()).result(30).tokens == (0, 1, 2, 3, 4)
        assert engine._runner.rows == {}


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on():
    gate = threading.Semaphore(0)
    with engine_of(Counting(gate=gate)) as engine:
        good, bad, later = engine.submit(ask()), engine.submit(ask(101)), engine.submit(ask())
        for _ in range(100):
            gate.release()
        for stream in (good, bad):
            with pytest.raises(RuntimeError, match="step"):
                stream.result(30)
        assert later.result(30).tokens == (0, 1, 2, 3, 4)


def test_a_cancelled_request_is_in_no_later_step():
    gate = threading.Semaphore(0)
    runner = Counting(gate=gate)
    with engine_of(runner) as engine:
        streams = [engine.submit(ask(count=100)) for _ in range(3)]
        gate.release()
        assert streams[0].get(30).tokens == (0,)
        streams[0].cancel()
        streams[2].cancel()
        gate.release()  # the step that may have begun before the cancel
        answers = [streams[index].result(30) for index in (0, 2)]
        assert [answer.finish.reason for answer in answers] == ["cancelled", "cancelled"]
        assert len(answers[0].tokens) <= 1
        assert streams[0].request_id not in runner.rows
        streams[1].cancel()
        gate.release()
        assert streams[1].result(30).finish.reason == "cancelled"


def test_draining_refuses_new_requests_and_lets_the_others_end():
    engine = engine_of(Counting())
    streams = [engine.submit(ask()) for _ in range(5)]
    assert engine.drain(timeout=30)
    assert all(stream.result(30).finish.reason == "length" for stream in streams)
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        engine.submit(ask())


def test_draining_has_an_end():
    gate = threading.Semaphore(0)
    engine = engine_of(Counting(gate=gate))
    stream = engine.submit(ask(count=100))
    timer = threading.Timer(0.2, lambda: [gate.release() for _ in range(3)])
    timer.start()
    assert not engine.drain(timeout=0.05)
    assert stream.result(30).finish.reason == "cancelled"
    timer.join()


def test_a_full_queue_refuses():
    gate = threading.Semaphore(0)
    with engine_of(Counting(max_rows=1, gate=gate), max_queued=0) as engine:
        first = engine.submit(ask(count=1))
        while engine.stats().running == 0:
            time.sleep(0.001)
        with pytest.raises(QueueFullError):
            engine.submit(ask())
        gate.release()
        assert first.result(30).finish.reason == "length"


def test_coroutines_and_threads_submit_together():
    async def answers(engine):
        async def one():
            return [token async for event in engine.submit(ask()) for token in event.tokens]

        return await asyncio.gather(*[one() for _ in range(10)])

    with engine_of(Counting(max_rows=4)) as engine:
        found = []
        thread = threading.Thread(
            target=lambda: found.extend(engine.submit(ask()).result(30).tokens for _ in range(10))
        )
        thread.start()
        assert asyncio.run(answers(engine)) == [[0, 1, 2, 3, 4]] * 10
        thread.join()
        assert found == [(0, 1, 2, 3, 4)] * 10


def test_unknown_and_ended_requests_are_cancelled_in_vain():
    with engine_of(Counting()) as engine:
        stream = engine.submit(ask())
        stream.result(30)
        stream.cancel()
        engine.cancel(1234)
        assert engine.submit(ask()).result(30).finish.reason == "length"

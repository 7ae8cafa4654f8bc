"""The engine's thread with a runner of numbers: submit, cancel, drain, close, faults."""

import asyncio
import threading
import time

import pytest

from helpers.counting_runner import (
    ENDLESS,
    FAILS_ALONE,
    FAILS_IN_STEP,
    FAILS_TO_BEGIN,
    FAILS_TO_END,
    IS_REFUSED,
    AtOnce,
    Counting,
)
from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.errors import ConfigError, EngineClosedError, QueueFullError, RequestTooLongError


def engine_of(runner, **settings):
    return LocalEngine(runner, EngineSettings(**settings))


def ask(first=1, tokens=5, length=2):
    return Request(prompt_ids=[first] * length, max_tokens=tokens)


def reason_of(stream):
    return stream.result(30).finish.reason


def assert_nothing_is_left(engine):
    """Of requests that ended, and in a closed engine."""
    assert engine._served == {}
    assert engine._cancelled == set()
    assert engine._scheduler.running == engine._scheduler.waiting == engine._runner.rows == {}


def test_answers_come_in_order_and_rows_are_bounded():
    runner = Counting()
    with engine_of(runner) as engine:
        streams = [engine.submit(ask(tokens=tokens)) for tokens in range(1, 8)]
        assert [stream.result(30).tokens for stream in streams] == [tuple(range(n)) for n in range(1, 8)]
        assert [stream.request_id for stream in streams] == list(range(7))
        assert runner.max_rows_at_once == 2
        assert runner.threads == {engine._thread}
    assert runner.is_closed
    assert not engine._thread.is_alive()
    assert_nothing_is_left(engine)


def test_the_last_event_and_the_statistics_count_tokens():
    with engine_of(Counting()) as engine:
        usage = [engine.submit(ask(length=3)).result(30).finish.usage for _ in range(2)][1]
        assert (usage.prompt_tokens, usage.completion_tokens) == (3, 5)
        assert (usage.draft_tokens, usage.accepted_tokens) == (10, 5)
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.finished) == (0, 0, {"length": 2})
        assert (stats.prompt_tokens, stats.completion_tokens, stats.steps) == (6, 10, 10)


def test_long_prompts_are_read_in_parts():
    with engine_of(Counting(), max_step_tokens=16) as engine:
        assert engine.submit(ask(length=50)).result(30).tokens == (0, 1, 2, 3, 4)
        assert engine.stats().steps == 4 + 4


def test_a_preempted_request_goes_on_where_it_was():
    gate = threading.Semaphore(0)
    with engine_of(Counting(gate=gate, max_cached_tokens=150)) as engine:
        streams = [engine.submit(ask(tokens=100)) for _ in range(2)]
        gate.release(1000)
        assert [stream.result(30).tokens for stream in streams] == [tuple(range(100))] * 2
        assert engine.stats().preemptions == 1
    assert_nothing_is_left(engine)


@pytest.mark.parametrize(("first", "message"), [(FAILS_TO_BEGIN, "begin"), (FAILS_ALONE, "alone")])
def test_a_fault_of_one_request_ends_it_alone(first, message):
    with engine_of(Counting()) as engine:
        good, bad = engine.submit(ask()), engine.submit(ask(first))
        with pytest.raises(RuntimeError, match=message):
            bad.result(30)
        assert good.result(30).tokens == (0, 1, 2, 3, 4)
        assert engine.submit(ask()).result(30).tokens == (0, 1, 2, 3, 4)
        assert engine.stats().finished == {"error": 1, "length": 2}
        assert_nothing_is_left(engine)


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on():
    gate = threading.Semaphore(0)
    with engine_of(Counting(gate=gate)) as engine:
        first = engine.submit(ask(tokens=2))
        assert engine._runner.begun.wait(30)  # its first step is under way
        beside, bad, later = (
            engine.submit(ask(tokens=3)),
            engine.submit(ask(FAILS_IN_STEP)),
            engine.submit(ask()),
        )
        gate.release(100)
        assert first.result(30).tokens == (0, 1)
        for stream in (beside, bad):
            with pytest.raises(RuntimeError, match="step"):
                stream.result(30)
        assert later.result(30).tokens == (0, 1, 2, 3, 4)
        assert_nothing_is_left(engine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_runner_that_fails_to_forget_a_request_holds_up_no_other():
    with engine_of(Counting()) as engine:
        bad, good = engine.submit(ask(FAILS_TO_END, tokens=1)), engine.submit(ask())
        assert bad.get(30).finish is not None
        assert good.result(2).tokens == (0, 1, 2, 3, 4)


def test_what_the_engine_can_never_serve_is_refused_and_leaves_nothing():
    with engine_of(Counting()) as engine:
        with pytest.raises(ConfigError, match="refused"):
            engine.submit(ask(IS_REFUSED))
        with pytest.raises(RequestTooLongError):
            engine.submit(ask(tokens=999))
        assert_nothing_is_left(engine)
        assert engine.submit(ask()).request_id == 0


def test_a_full_queue_refuses():
    gate = threading.Semaphore(0)
    with engine_of(Counting(max_rows=1, gate=gate), max_queued=0) as engine:
        first = engine.submit(ask(tokens=1))
        with pytest.raises(QueueFullError):
            engine.submit(ask())
        gate.release()
        assert reason_of(first) == "length"


def test_a_cancelled_request_is_in_no_later_step():
    gate = threading.Semaphore(0)
    runner = Counting(gate=gate)
    with engine_of(runner) as engine:
        streams = [engine.submit(ask(ENDLESS)) for _ in range(3)]
        gate.release()
        assert streams[0].get(30).tokens == (0,)
        streams[0].cancel()
        streams[2].cancel()
        gate.release()  # the step that may have begun before the cancel
        answers = [streams[index].result(30) for index in (0, 2)]
        assert [answer.finish.reason for answer in answers] == ["cancelled", "cancelled"]
        assert len(answers[0].tokens) <= 1
        assert answers[1].tokens == ()
        assert streams[0].request_id not in runner.rows
        streams[1].cancel()
        gate.release()
        assert reason_of(streams[1]) == "cancelled"
        assert runner.steps[2:] == [[1]] * len(runner.steps[2:])


def test_a_step_that_takes_a_whole_answer_publishes_its_tokens_and_ends_by_a_cancel():
    gate = threading.Semaphore(0)
    with engine_of(AtOnce(max_rows=1, gate=gate)) as engine:
        stream, waiting = engine.submit(ask(tokens=900)), engine.submit(ask())
        assert stream.get(30).tokens == (0,)
        stream.cancel()
        gate.release(100)
        assert reason_of(stream) == "cancelled"
        assert waiting.result(30).tokens == (0, 1, 2, 3, 4)
        assert_nothing_is_left(engine)


def test_unknown_and_ended_requests_are_cancelled_in_vain():
    with engine_of(Counting()) as engine:
        stream = engine.submit(ask())
        stream.result(30)
        stream.cancel()
        engine.cancel(1234)
        assert reason_of(engine.submit(ask())) == "length"
        assert_nothing_is_left(engine)


def test_a_thousand_cancels_from_several_threads_leave_nothing_behind():
    def cancel_some(streams):
        for index in range(250):
            stream = engine.submit(ask(ENDLESS))
            if index % 3 == 0:
                stream.get(30)  # it runs
            stream.cancel()
            stream.cancel()
            streams.append(stream)

    with engine_of(Counting(max_rows=4)) as engine:
        found = [[] for _ in range(4)]
        threads = [threading.Thread(target=cancel_some, args=(streams,)) for streams in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        reasons = {reason_of(stream) for streams in found for stream in streams}
        assert reasons == {"cancelled"}
        assert engine.stats().finished == {"cancelled": 1000}
        assert_nothing_is_left(engine)
        assert reason_of(engine.submit(ask())) == "length"


def test_coroutines_and_threads_submit_together():
    async def answer(engine):
        return [token async for event in engine.submit(ask()) for token in event.tokens]

    async def answers(engine):
        return await asyncio.gather(*[answer(engine) for _ in range(10)])

    with engine_of(Counting(max_rows=4)) as engine:
        found = []
        thread = threading.Thread(
            target=lambda: found.extend(engine.submit(ask()).result(30).tokens for _ in range(10))
        )
        thread.start()
        assert asyncio.run(answers(engine)) == [[0, 1, 2, 3, 4]] * 10
        thread.join(30)
        assert found == [(0, 1, 2, 3, 4)] * 10


def test_a_coroutine_cancels_and_reads_the_last_event():
    async def read(engine):
        stream = engine.submit(ask(ENDLESS))
        finish = None
        async for event in stream:
            stream.cancel()
            finish = event.finish
        return finish.reason

    with engine_of(Counting()) as engine:
        assert asyncio.run(read(engine)) == "cancelled"
        assert_nothing_is_left(engine)


def test_a_coroutine_may_drain_in_a_thread_while_others_read():
    async def answers(engine):
        async def one(stream):
            return [token async for event in stream for token in event.tokens]

        streams = [engine.submit(ask()) for _ in range(5)]
        return await asyncio.gather(asyncio.to_thread(engine.drain), *map(one, streams))

    assert asyncio.run(answers(engine_of(Counting()))) == [True, *[[0, 1, 2, 3, 4]] * 5]


def test_draining_refuses_new_requests_and_lets_the_others_end():
    gate = threading.Semaphore(0)
    engine = engine_of(Counting(gate=gate))
    streams = [engine.submit(ask()) for _ in range(5)]
    drained = []
    thread = threading.Thread(target=lambda: drained.append(engine.drain(timeout=30)))
    thread.start()
    while engine._takes_requests:
        time.sleep(0.001)
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        engine.submit(ask())
    gate.release(100)
    thread.join(30)
    assert drained == [True]
    assert [reason_of(stream) for stream in streams] == ["length"] * 5
    assert not engine._thread.is_alive()


def test_draining_has_an_end():
    gate = threading.Semaphore(0)
    engine = engine_of(Counting(max_rows=1, gate=gate))
    streams = [engine.submit(ask(ENDLESS)) for _ in range(3)]
    assert engine._runner.begun.wait(30)

    def end_the_step():
        while not engine._is_closing:
            time.sleep(0.001)
        gate.release()

    thread = threading.Thread(target=end_the_step)
    thread.start()
    assert not engine.drain(timeout=0.01)
    assert [reason_of(stream) for stream in streams] == ["cancelled"] * 3
    thread.join(30)
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("how", ["is cancelled", "fails to begin"])
def test_draining_ends_with_the_last_request_however_it_ends(how):
    gate = threading.Semaphore(0)
    engine = engine_of(Counting(max_rows=1, gate=gate))
    next_plan = engine._next_plan

    def slow_plan():
        time.sleep(0.2)  # `drain` looks at the requests before those that end between two steps have
        return next_plan()

    engine._next_plan = slow_plan
    stream = engine.submit(ask(ENDLESS if how == "is cancelled" else 1, tokens=1))
    assert engine._runner.begun.wait(30)
    if how == "fails to begin":
        engine.submit(ask(FAILS_TO_BEGIN))
    thread = threading.Thread(target=engine.drain, daemon=True)
    thread.start()
    while engine._takes_requests:
        time.sleep(0.001)
    if how == "is cancelled":
        stream.cancel()
    gate.release()
    thread.join(2)
    is_waiting = thread.is_alive()
    engine.close()  # wakes it
    thread.join(30)
    assert not is_waiting


def test_closing_cancels_what_runs_and_what_waits_from_any_number_of_threads():
    engine = engine_of(Counting(max_rows=1))
    streams = [engine.submit(ask(ENDLESS)) for _ in range(4)]
    threads = [threading.Thread(target=engine.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [reason_of(stream) for stream in streams] == ["cancelled"] * 4
    assert not engine._thread.is_alive()
    assert engine._runner.is_closed
    assert_nothing_is_left(engine)


def test_a_closed_engine_takes_no_requests_and_may_be_closed_again():
    engine = engine_of(Counting())
    engine.close()
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        engine.submit(ask())
    assert engine.drain()
    engine.close()
    engine.cancel(0)
    assert engine.stats().finished == {}

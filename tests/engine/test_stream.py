"""Streams carry events to threads and coroutines, and a slow reader delays no other."""

import asyncio
import threading

import pytest

from lookahead.engine.events import Event, Finish, FinishReason, TokenLogprobs, Usage
from lookahead.engine.stream import Stream

END = Finish(FinishReason.LENGTH, Usage(3, completion_tokens=4))


def stream_of(*events, cancelled=None):
    stream = Stream(7, ([] if cancelled is None else cancelled).append)
    for event in events:
        stream.put(event)
    return stream


def test_a_slow_reader_gets_several_steps_in_one_event():
    stream = stream_of(Event((1,)), Event((2, 3)), Event((4,), finish=END))
    assert list(stream) == [Event((1, 2, 3, 4), (), END)]
    assert stream.get() is None


def test_the_whole_answer():
    logprobs = [TokenLogprobs(token, -1.0) for token in (1, 2)]
    answer = stream_of(Event((1,), logprobs[:1]), Event((2,), logprobs[1:], END)).result()
    assert (answer.tokens, answer.logprobs, answer.finish) == ((1, 2), tuple(logprobs), END)


def test_what_was_read_already_is_no_answer():
    stream = stream_of(Event((1,), finish=END))
    list(stream)
    with pytest.raises(ValueError, match="have been read already"):
        stream.result()


def test_an_error_is_raised_by_the_answer_and_stands_in_the_event():
    finish = Finish(FinishReason.ERROR, Usage(3), error=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        stream_of(Event(finish=finish)).result()
    assert next(iter(stream_of(Event(finish=finish)))).finish is finish


def test_waiting_has_an_end():
    with pytest.raises(TimeoutError, match="no event of request 7"):
        stream_of().get(timeout=0.01)


def test_cancelling_names_the_request():
    cancelled = []
    stream_of(cancelled=cancelled).cancel()
    assert cancelled == [7]


def test_a_thread_waits_for_events():
    stream, got = stream_of(), []
    thread = threading.Thread(target=lambda: got.extend(stream))
    thread.start()
    stream.put(Event((1,)))
    stream.put(Event((2,), finish=END))
    thread.join(timeout=30)
    assert [token for event in got for token in event.tokens] == [1, 2]


def test_a_coroutine_waits_for_events_that_another_thread_sends():
    async def read():
        stream, got = stream_of(Event((1,))), []
        thread = threading.Thread(target=lambda: stream.put(Event((2,), finish=END)))
        async for event in stream:
            got += event.tokens
            if got == [1]:
                thread.start()
        thread.join()
        return got

    assert asyncio.run(read()) == [1, 2]


def test_a_coroutine_that_was_cancelled_leaves_the_stream_usable():
    async def read():
        stream = stream_of()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(aiter(stream)), timeout=0.01)
        stream.put(Event((1,), finish=END))
        return [token async for event in stream for token in event.tokens]

    assert asyncio.run(read()) == [1]


def test_an_answer_that_takes_too_long_may_be_asked_for_again():
    stream = stream_of(Event((1,)))
    with pytest.raises(TimeoutError):
        stream.result(timeout=0.01)
    stream.put(Event((2,), finish=END))
    assert stream.result().tokens == (1, 2)


def test_a_slow_coroutine_gets_several_steps_in_one_event():
    async def read():
        stream, events = stream_of(Event((1,))), []
        async for event in stream:
            if event.tokens == (1,):
                stream.put(Event((2,)))
                stream.put(Event((3, 4), finish=END))
            events.append(event)
        return events

    assert asyncio.run(read()) == [Event((1,)), Event((2, 3, 4), (), END)]


def test_what_was_read_before_is_no_part_of_the_answer():
    stream = stream_of(Event((1,)))
    assert stream.get() == Event((1,))
    stream.put(Event((2,), finish=END))
    assert stream.result().tokens == (2,)


def test_a_loop_that_was_closed_holds_up_no_engine():
    async def read_one(stream):
        events = aiter(stream)
        return await anext(events), events

    stream = stream_of(Event((1,)))
    (event, events) = asyncio.run(read_one(stream))
    assert event.tokens == (1,)
    stream.put(Event((2,), finish=END))
    assert stream.get() == Event((2,), finish=END)
    del events

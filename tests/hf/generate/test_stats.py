"""Counts come back with the call: each call gets its own, whatever other threads do."""

import threading

import pytest
from transformers import LogitsProcessorList

from helpers.streamers import Breaking
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedGenerationError

GREEDY = {"do_sample": False}


@pytest.fixture
def lookahead():
    return Lookahead(LookaheadConfig(decoding_length=8))


def test_of_eight_threads_each_call_gets_its_own_counts(lookahead):
    model = tiny_model("llama")
    received = {}

    def run(number):
        for again in range(3):
            tokens = 10 + 3 * number + again

            def note(stats, key=(number, again)):
                received.setdefault(key, []).append((stats, threading.current_thread()))

            lookahead.generate(model, prompt(number), **GREEDY, max_new_tokens=tokens, on_stats=note)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(received) == 24
    for (number, again), calls in received.items():
        ((stats, thread),) = calls
        assert (stats.requests, stats.tokens) == (1, 10 + 3 * number + again)
        assert thread is threads[number]
    every = [stats for ((stats, _),) in received.values()]
    for name in ("requests", "tokens", "row_steps", "forwards", "draft_tokens", "accepted_tokens"):
        assert getattr(lookahead.stats, name) == sum(getattr(stats, name) for stats in every)
    assert any(lookahead.last_stats is stats for stats in every)


@pytest.mark.parametrize("way", ["generate", "custom_generate", "attach", "namespace", "attached namespace"])
def test_every_way_of_turning_it_on_tells_the_counts(lookahead, way):
    model, received = tiny_model("llama"), []
    settings = {**GREEDY, "max_new_tokens": 9}
    view = lookahead.for_namespace("tenant") if "namespace" in way else lookahead
    if way.startswith("attach"):
        with view.attach(model, on_stats=received.append):
            model.generate(prompt(0), **settings)
    elif way == "generate":
        view.generate(model, prompt(0), on_stats=received.append, **settings)
    else:
        model.generate(prompt(0), custom_generate=view, on_stats=received.append, **settings)
    assert received == [lookahead.last_stats]
    assert received[0].tokens == 9


def test_a_returned_dict_carries_the_counts_that_the_callback_got(lookahead):
    received = []
    output = lookahead.generate(
        tiny_model("llama"),
        prompt(0),
        **GREEDY,
        max_new_tokens=9,
        return_dict_in_generate=True,
        on_stats=received.append,
    )
    assert received == [output.lookahead_stats]


@pytest.mark.parametrize("error", [ValueError("broken callback"), KeyboardInterrupt()])
def test_a_call_that_fails_tells_what_it_did_until_then(lookahead, error):
    received = []
    processors = LogitsProcessorList([Breaking(error, after=5)])
    with pytest.raises(type(error)):
        lookahead.generate(
            tiny_model("llama"),
            prompt(0),
            **GREEDY,
            max_new_tokens=30,
            logits_processor=processors,
            on_stats=received.append,
        )
    (stats,) = received
    assert stats.requests == 1
    assert stats.prefill_s > 0
    assert lookahead.stats == stats


def test_a_call_that_is_refused_has_no_counts(lookahead):
    received = []
    with pytest.raises(UnsupportedGenerationError):
        lookahead.generate(
            tiny_model("llama"), prompt(0), num_beams=2, max_new_tokens=5, on_stats=received.append
        )
    assert received == []


def test_a_broken_callback_is_raised_and_the_counts_are_kept(lookahead):
    def broken(_stats):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lookahead.generate(tiny_model("llama"), prompt(0), **GREEDY, max_new_tokens=9, on_stats=broken)
    assert lookahead.stats.tokens == 9
    assert lookahead.memory.store._requests == {}

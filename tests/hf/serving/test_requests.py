"""What one request asks for is its own: callbacks, ends, log-probabilities, faults, cancels."""

import threading

import pytest
import torch
from transformers import LogitsProcessor

from helpers.samples import examples
from helpers.tiny_models import prompt, tiny_model, tiny_tokenizer
from lookahead import Lookahead, LookaheadConfig
from lookahead.engine.request import Request, Sampling
from lookahead.engine.settings import EngineSettings
from lookahead.errors import ConfigError, PromptTooLongError, RequestTooLongError, TokenIdError
from lookahead.hf.serving.arguments import generate_arguments

NEW_TOKENS = 16
FAILURE = "this fails"
HOWS = [Sampling(), Sampling(temperature=0.9, seed=2)]


class Calls(LogitsProcessor):
    """Notes each call; allows only even tokens."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.tolist(), scores.clone()))
        scores[:, 1::2] = -torch.inf
        return scores


class Fails(LogitsProcessor):
    """Raises at the nth call."""

    def __init__(self, at):
        self.at = at

    def __call__(self, _input_ids, scores):
        self.at -= 1
        if self.at < 0:
            raise RuntimeError(FAILURE)
        return scores


@pytest.fixture(params=["llama", "fused-llama"])
def model(request):
    return tiny_model(request.param)


def ask(seed=0, length=12, **others):
    return Request(prompt_ids=prompt(seed, length)[0].tolist(), **{"max_tokens": NEW_TOKENS, **others})


def others_of(engine, count=7):
    return [engine.submit(ask(seed, sampling=Sampling(temperature=1.0, seed=seed))) for seed in range(count)]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.9, seed=2)], ids=["greedy", "sampled"]
)
def test_a_processor_sees_the_very_calls_of_generate_while_others_run(model, sampling):
    alone, beside = Calls(), Calls()
    torch.manual_seed(2)
    expected = model.generate(**generate_arguments(model, ask(3, sampling=sampling, processors=[alone])))
    with Lookahead().engine(model, settings=EngineSettings(max_step_tokens=20)) as engine:
        streams = others_of(engine)
        answer = engine.submit(ask(3, sampling=sampling, processors=[beside])).result(timeout=60)
        for stream in streams:
            assert stream.result(timeout=60).finish.error is None
    assert list(answer.tokens) == expected[0, 12:].tolist()
    assert [ids for ids, _ in beside.seen] == [ids for ids, _ in alone.seen]
    for (_, one), (_, other) in zip(beside.seen, alone.seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_processor_that_fails_ends_its_request_alone(model, at):
    expected = model.generate(**generate_arguments(model, ask(0, sampling=Sampling())))[0, 12:].tolist()
    with Lookahead().engine(model) as engine:
        good = [engine.submit(ask(0)) for _ in range(3)]
        bad = engine.submit(ask(1, processors=[Fails(at)]))
        with pytest.raises(RuntimeError, match=FAILURE):
            bad.result(timeout=60)
        for stream in [*good, engine.submit(ask(0))]:
            assert list(stream.result(timeout=60).tokens) == expected
        assert engine.stats().finished == {"length": 4, "error": 1}


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(model, monkeypatch):
    expected = model.generate(**generate_arguments(model, ask(0)))[0, 12:].tolist()
    with Lookahead().engine(model, settings=EngineSettings(prefix_cache=False)) as engine:
        step_model = engine._runner._step_model
        original, left = step_model.forward, [3]

        def failing(drafts):
            left[0] -= 1
            if left[0] == 0:
                raise MemoryError(FAILURE)
            return original(drafts)

        monkeypatch.setattr(step_model, "forward", failing)
        streams = [engine.submit(ask(0)) for _ in range(2)]
        with pytest.raises(MemoryError):
            streams[0].result(timeout=60)
        assert list(engine.submit(ask(0)).result(timeout=60).tokens) == expected


@pytest.mark.matrix
def test_many_cancels_leave_nothing_behind(model):
    """A thousand in `make verify`; here, a quarter of them."""
    turns = examples(250)
    la = Lookahead()
    with la.engine(model, settings=EngineSettings(max_step_tokens=16)) as engine:
        for turn in range(turns):
            streams = [engine.submit(ask(turn + index, max_tokens=64)) for index in range(4)]
            if turn % 3 == 0:
                streams[0].get(timeout=60)
            for stream in streams:
                stream.cancel()
            assert {stream.result(timeout=60).finish.reason for stream in streams} == {"cancelled"}
        stats, runner = engine.stats(), engine._runner
        assert (stats.running, stats.waiting, stats.cache_tokens) == (0, 0, 0)
        assert stats.finished == {"cancelled": 4 * turns}
        assert runner._requests == {}
        assert runner._step_model.rows == []
        assert runner._drafter._requests == {}
        assert la.memory.store._requests == {}
        assert runner._step_model.cache.arena.lowest_free_row == 0
        assert engine._served == {}
        assert engine._cancelled == set()


def test_logprobs_are_those_of_the_raw_logits_also_behind_processors_that_write(model):
    request = ask(4, logprobs=3, processors=[Calls()], sampling=Sampling(temperature=0.5, seed=1))
    with Lookahead().engine(model) as engine:
        others = others_of(engine, 3)
        answer = engine.submit(request).result(timeout=60)
        for stream in others:
            stream.result(timeout=60)
    ids = torch.tensor([[*request.prompt_ids, *answer.tokens]])
    with torch.no_grad():
        expected = model(ids).logits[0, 11:-1].log_softmax(dim=-1)
    assert len(answer.logprobs) == len(answer.tokens) == NEW_TOKENS
    for row, found in zip(expected, answer.logprobs, strict=True):
        assert found.logprob == pytest.approx(float(row[found.token]), abs=1e-4)
        assert [value for _, value in found.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


def test_stop_strings_and_tokens_say_what_ended_the_answer(model):
    tokenizer = tiny_tokenizer()
    with Lookahead().engine(model, tokenizer) as engine:
        whole = engine.submit(ask(0)).result(timeout=60)
        text = tokenizer.decode(list(whole.tokens))
        ended = engine.submit(ask(0, stop_strings=["@", text[4:6]])).result(timeout=60)
        assert whole.finish.reason == "length"
        assert whole.finish.stop is None
        assert ended.finish.reason == "stop"
        assert ended.finish.stop == text[4:6]
        assert text[4:6] in tokenizer.decode(list(ended.tokens))
        by_token = engine.submit(ask(0, stop_ids=[whole.tokens[3]])).result(timeout=60)
        assert by_token.finish.stop == whole.tokens[3]
        assert by_token.tokens[-1] == whole.tokens[3]


def test_requests_that_cannot_be_served_are_refused_at_once(model):
    with Lookahead().engine(model, settings=EngineSettings(max_request_tokens=40)) as engine:
        with pytest.raises(TokenIdError, match="token 4000 in prompt_ids is not in the vocabulary"):
            engine.submit(Request(prompt_ids=[4000]))
        with pytest.raises(TokenIdError, match="logit_bias"):
            engine.submit(ask(sampling=Sampling(logit_bias={4000: 1.0})))
        with pytest.raises(ConfigError, match="need the model's tokenizer"):
            engine.submit(ask(stop_strings=["x"]))
        with pytest.raises(RequestTooLongError, match="more than the 40 tokens"):
            engine.submit(ask(max_tokens=30))
        with pytest.raises(PromptTooLongError):
            engine.submit(Request(prompt_ids=[1] * 5000, max_tokens=1))
        assert engine.stats().finished == {}


def test_predicted_output_is_accepted_and_never_remembered(model):
    la = Lookahead()
    with la.engine(model) as engine:
        plain = engine.submit(ask(5, max_tokens=32, namespace="a")).result(timeout=60)
        again = ask(5, max_tokens=32, namespace="b", predictions=[plain.tokens])
        predicted = engine.submit(again).result(timeout=60)
    assert predicted.tokens == plain.tokens
    assert predicted.finish.usage.accepted_tokens >= plain.finish.usage.accepted_tokens
    assert predicted.finish.usage.accepted_tokens > 8


def test_no_request_is_drafted_or_read_from_another_namespace(model):
    with Lookahead(LookaheadConfig(decoding_length=16)).engine(model) as engine:
        first = engine.submit(ask(6, 140, namespace="a")).result(timeout=60).finish.usage
        other = engine.submit(ask(6, 140, namespace="b")).result(timeout=60).finish.usage
        again = engine.submit(ask(6, 140, namespace="a")).result(timeout=60).finish.usage
    assert other.cached_tokens == 0
    assert other.accepted_tokens < again.accepted_tokens
    assert again.cached_tokens == 128
    assert first.cached_tokens == 0
    assert again.accepted_tokens > first.accepted_tokens


def test_many_threads_may_submit(model):
    expected = model.generate(**generate_arguments(model, ask(0)))[0, 12:].tolist()
    answers = []
    with Lookahead().engine(model, settings=EngineSettings(max_rows=4)) as engine:

        def work():
            answers.extend(list(engine.submit(ask(0)).result(timeout=60).tokens) for _ in range(3))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.drain(timeout=60)
    assert answers == [expected] * 12

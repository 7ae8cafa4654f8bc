"""Attached: `model.generate` and its callers work unchanged; unsupported calls are left to transformers."""

import asyncio
import copy
import functools
import pickle
import threading

import pytest
import torch
from transformers import (
    AsyncTextIteratorStreamer,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TextIteratorStreamer,
    pipeline,
)

from helpers.recorder import Recorder
from helpers.tiny_models import prompt, tiny_model, tiny_tokenizer
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import ConfigError, UnsupportedModelError

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 40, "do_sample": False}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def lookahead():
    return Lookahead(LookaheadConfig(decoding_length=16))


def test_generate_is_accelerated_until_it_is_detached(model, lookahead):
    expected = model.generate(PROMPT, **GREEDY)
    lookahead.attach(model)
    for _ in ("cold", "warm"):
        assert model.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
    assert lookahead.last_stats.mean_acceptance_length > 2
    lookahead.detach(model)
    assert model.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.requests == 2
    assert "generate" not in vars(model)
    lookahead.detach(model)  # once more is no error


def test_a_with_block_detaches_whatever_happens_in_it(model, lookahead):
    with lookahead.attach(model):
        model.generate(PROMPT, **GREEDY)
    with pytest.raises(KeyError), lookahead.attach(model):
        raise KeyError
    model.generate(PROMPT, **GREEDY)
    assert lookahead.stats.requests == 1


def test_a_generate_that_came_with_the_model_is_left_alone_and_given_back(model, lookahead):
    own = functools.partial(type(model).generate, model, suppress_tokens=[5])  # as from a repository's folder
    model.generate = own
    expected = model.generate(PROMPT, **GREEDY)
    with lookahead.attach(model), pytest.warns(UserWarning, match="came with a generate of its own"):
        assert model.generate(PROMPT, **GREEDY).tolist() == expected.tolist()
    assert model.generate is own
    assert lookahead.stats.requests == 0


def test_a_class_with_a_generate_or_a_loop_of_its_own_is_left_alone(lookahead):
    class OwnGenerate(LlamaForCausalLM):
        def generate(self, numbers):
            return numbers + 1

    class OwnLoop(LlamaForCausalLM):
        def _sample(self, *args, **kwargs):
            return super()._sample(*args, **kwargs)[:, :-1]

    model = tiny_model("llama")
    model.__class__ = OwnGenerate
    with lookahead.attach(model), pytest.warns(UserWarning, match="a generate of its own"):
        assert model.generate(3) == 4
    model = tiny_model("llama")
    model.__class__ = OwnLoop
    with lookahead.attach(model), pytest.warns(UserWarning, match="a loop of its own"):
        answer = model.generate(PROMPT, **GREEDY)
    assert answer.shape[1] == PROMPT.shape[1] + 39
    with pytest.raises(UnsupportedModelError, match="loop of its own"):
        lookahead.generate(model, PROMPT, **GREEDY)
    assert lookahead.stats.requests == 0


def test_an_attached_model_may_be_given_to_generate_as_well(model, lookahead):
    expected = model.generate(PROMPT, **GREEDY)
    with lookahead.attach(model):
        assert lookahead.generate(model, PROMPT, **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.requests == 1


def test_stop_strings_of_the_model_and_of_several_settings(model, lookahead):
    tokenizer = tiny_tokenizer()
    answer = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    early, late = tokenizer.decode(answer[4:6]), tokenizer.decode(answer[12:14])
    model.generation_config.stop_strings = [late]
    config = GenerationConfig(**GREEDY, stop_strings=[late], pad_token_id=0)
    for settings in ({}, {"stop_strings": early}, {"generation_config": config, "stop_strings": [early]}):
        given = {**settings, **({} if "generation_config" in settings else GREEDY), "tokenizer": tokenizer}
        expected = model.generate(PROMPT, **given)
        with lookahead.attach(model):
            assert model.generate(PROMPT, **given).tolist() == expected.tolist()
        assert expected.shape[1] < PROMPT.shape[1] + 40
    assert lookahead.stats.requests == 3


def test_positional_arguments_too_many_or_twice(model, lookahead):
    with lookahead.attach(model), pytest.raises(TypeError, match="positional"):
        model.generate(PROMPT, inputs=PROMPT)


def test_a_second_one_is_refused(model, lookahead):
    with lookahead.attach(model):
        with pytest.raises(ConfigError, match="detach it first"):
            Lookahead().attach(model)
        with pytest.raises(ConfigError, match="namespace"):
            lookahead.attach(tiny_model("gpt2"), namespace="")
        assert lookahead.stats.requests == 0


def test_a_namespace_can_be_attached(model, lookahead):
    with lookahead.for_namespace("tenant").attach(model):
        model.generate(PROMPT, **GREEDY)
    assert lookahead.memory.namespaces == {"tenant": 40}


def test_positional_arguments_and_stop_strings(model, lookahead):
    tokenizer = tiny_tokenizer()
    answer = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    config = GenerationConfig(**GREEDY, stop_strings=[tokenizer.decode(answer[6:8])], pad_token_id=0)
    expected = model.generate(PROMPT, config, tokenizer=tokenizer)
    with lookahead.attach(model):
        actual = model.generate(PROMPT, config, tokenizer=tokenizer)
    assert actual.tolist() == expected.tolist()
    assert lookahead.stats.requests == 1


@pytest.mark.parametrize("do_sample", [False, True])
def test_streamers_see_the_same_calls(model, lookahead, do_sample):
    events = []
    for attached in (False, True):
        recorder = Recorder()
        if attached:
            lookahead.attach(model)
        torch.manual_seed(1)
        model.generate(
            PROMPT,
            max_new_tokens=20,
            do_sample=do_sample,
            streamer=recorder,
            logits_processor=LogitsProcessorList([recorder]),
        )
        events.append(recorder.events)
    assert events[0] == events[1]
    assert events[1][-1] == ("end",)


def test_a_text_streamer_in_a_thread_ends(model, lookahead):
    tokenizer = tiny_tokenizer()
    expected = tokenizer.decode(model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :])
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    with lookahead.attach(model):
        thread = threading.Thread(
            target=model.generate, kwargs={"inputs": PROMPT, "streamer": streamer, **GREEDY}
        )
        thread.start()
        assert "".join(streamer) == expected
        thread.join()
    assert lookahead.last_stats.tokens == 40


def test_a_pipeline_works_unchanged(model, lookahead):
    tokenizer = tiny_tokenizer()
    texts = [tokenizer.decode(prompt(seed)[0]) for seed in range(3)]
    answer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    expected = answer(texts, **GREEDY)
    with lookahead.attach(model):
        assert answer(texts, **GREEDY) == expected
        assert lookahead.stats.requests == 3
        assert answer(texts, **GREEDY, batch_size=3) == expected
    assert lookahead.stats.requests == 6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_beams": 2}, "beam_search"),
        ({"num_beams": 2, "do_sample": True}, "beam_sample"),
        ({"prompt_lookup_num_tokens": 3}, "assisted_generation"),
        ({"use_cache": False}, "use_cache=False"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
        ({"custom_generate": lambda _model, input_ids, **_: input_ids}, "custom_generate"),
        ({"cache_implementation": "static"}, "cache_implementation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_steps_aside_with_one_warning_where_it_cannot(model, lookahead, settings, reason):
    generation = {**GREEDY, "max_new_tokens": 8, **settings}
    torch.manual_seed(2)
    expected = model.generate(PROMPT, **generation)
    with lookahead.attach(model):
        torch.manual_seed(2)
        with pytest.warns(UserWarning, match=f"steps aside.*{reason}"):
            actual = model.generate(PROMPT, **generation)
        torch.manual_seed(2)
        model.generate(PROMPT, **generation)  # a second warning would fail the test
        served = model.generate(PROMPT, **GREEDY)
    if "return_dict_in_generate" in settings:
        assert len(actual.hidden_states) == len(expected.hidden_states)
        actual, expected = actual.sequences, expected.sequences
    assert actual.tolist() == expected.tolist()
    assert served.shape[1] == PROMPT.shape[1] + 40
    assert lookahead.stats.requests == 1


def test_a_streamer_sees_the_prompt_once_where_it_steps_aside(model, lookahead):
    recorder = Recorder()
    with lookahead.attach(model), pytest.warns(UserWarning, match="steps aside"):
        model.generate(PROMPT, **GREEDY, streamer=recorder, use_cache=False)
    puts = [event[1] for event in recorder.events if event[0] == "put"]
    assert puts[0] == PROMPT.tolist()
    assert [len(put) for put in puts] == [1] * 41
    assert recorder.events[-1] == ("end",)


def test_an_encoder_decoder_is_left_to_the_library(lookahead):
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    expected = model.generate(PROMPT, max_new_tokens=5)
    with lookahead.attach(model), pytest.warns(UserWarning, match="encoder-decoder"):
        assert model.generate(PROMPT, max_new_tokens=5).tolist() == expected.tolist()


def test_a_memory_of_another_vocabulary_is_not_used(model, lookahead):
    lookahead.generate(model, PROMPT, **GREEDY)
    other = tiny_model("gpt2", vocab_size=99)
    with lookahead.attach(other), pytest.warns(UserWarning, match="vocabulary"):
        other.generate(PROMPT, **GREEDY)
    assert lookahead.stats.requests == 1


def test_a_bad_call_raises_what_generate_raises(model, lookahead):
    with lookahead.attach(model):
        with pytest.raises(ValueError, match="not used by the model"):
            model.generate(PROMPT, **GREEDY, nonsense=3)
        with pytest.raises(ValueError, match="tokenizer"):
            model.generate(PROMPT, **GREEDY, stop_strings=["a"])


def test_a_deep_copy_generates_with_itself(model, lookahead):
    with lookahead.attach(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.lm_head.weight.copy_(other.lm_head.weight.roll(1, 0))
        assert other.generate(PROMPT, **GREEDY).tolist() != model.generate(PROMPT, **GREEDY).tolist()
    lookahead.detach(other)
    expected = other.generate(PROMPT, **GREEDY)
    assert "generate" not in vars(other)
    assert expected.shape[1] == PROMPT.shape[1] + 40


def test_a_model_can_be_saved_while_attached(model, lookahead, tmp_path):
    with lookahead.attach(model):
        model.save_pretrained(tmp_path)
        assert set(model.state_dict()) == set(pickle.loads(pickle.dumps(model.state_dict())))  # noqa: S301
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("family", ["bloom", "gpt_neo", "falcon-alibi"])
def test_threads_share_a_model_that_trees_change(lookahead, family):
    model = tiny_model(family)
    prompts = [prompt(seed) for seed in range(4)]
    expected = [model.generate(ids, **GREEDY).tolist() for ids in prompts]
    answers = {}

    def run(number):
        for again in range(3):
            answers[number, again] = lookahead.generate(model, prompts[number], **GREEDY).tolist()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: answers[number, 2] for number in range(4)} == dict(enumerate(expected))
    assert len(answers) == 12
    assert [model.generate(ids, **GREEDY).tolist() for ids in prompts] == expected


def test_threads_share_a_model(model, lookahead):
    prompts = [prompt(seed) for seed in range(6)]
    expected = [model.generate(ids, **GREEDY).tolist() for ids in prompts]
    lookahead.generate(model, prompts[0], **GREEDY)
    answers = {}

    def run(number):
        for again in range(3):
            answers[number, again] = model.generate(prompts[number], **GREEDY).tolist()

    def run_plain(number):
        for again in range(3):
            answers["plain", number, again] = type(model).generate(model, prompts[number], **GREEDY).tolist()

    with lookahead.attach(model):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        threads += [threading.Thread(target=run_plain, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 24
    for key, answer in answers.items():
        assert answer == expected[key[-2]]
    assert model.config._attn_implementation == "sdpa"
    assert lookahead.stats.requests == 19


def test_an_async_streamer_ends(model, lookahead):
    tokenizer = tiny_tokenizer()
    expected = tokenizer.decode(model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :])

    async def streamed():
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
        thread = threading.Thread(
            target=model.generate, kwargs={"inputs": PROMPT, "streamer": streamer, **GREEDY}
        )
        thread.start()
        pieces = [piece async for piece in streamer]
        thread.join()
        return "".join(pieces)

    with lookahead.attach(model):
        assert asyncio.run(streamed()) == expected
    assert lookahead.last_stats.mean_acceptance_length > 1

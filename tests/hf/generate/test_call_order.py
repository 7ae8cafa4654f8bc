"""Callbacks see what they see in `generate`: the same calls, in the same order, for the same tokens."""

import time

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

from helpers.memories import prepared
from helpers.recorder import Recorder
from helpers.tiny_models import prompt, tiny_model, tiny_tokenizer
from lookahead import Lookahead, LookaheadConfig

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def warm(model):
    return prepared(LookaheadConfig(decoding_length=16), "warm", model, [PROMPT], **GREEDY)


@pytest.mark.parametrize("do_sample", [False, True])
def test_the_same_calls_in_the_same_order(model, warm, do_sample):
    recorders = []
    for generate in (model.generate, lambda *args, **kwargs: warm.generate(model, *args, **kwargs)):
        recorder = Recorder()
        torch.manual_seed(1)
        generate(
            PROMPT,
            max_new_tokens=24,
            do_sample=do_sample,
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=StoppingCriteriaList([recorder]),
            streamer=recorder,
        )
        recorders.append(recorder)
    expected, actual = recorders
    assert actual.events == expected.events
    torch.testing.assert_close(torch.cat(actual.scores), torch.cat(expected.scores), rtol=1e-4, atol=1e-4)
    assert do_sample or warm.last_stats.mean_acceptance_length > 2


@pytest.mark.parametrize(
    "generation",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [7, 8]]},
        {"min_new_tokens": 9, "eos_token_id": 11},
        {"suppress_tokens": [4, 5, 6]},
        {"prefix_allowed_tokens_fn": lambda _row, ids: [(int(ids[-1]) * 7 + step) % 64 for step in range(9)]},
        {"do_sample": True, "top_k": 5, "min_p": 0.05, "typical_p": 0.9},
        {"sequence_bias": [[[3], 2.0]], "exponential_decay_length_penalty": (5, 1.2), "eos_token_id": 9},
        {"forced_eos_token_id": 9, "eos_token_id": 9},
        {"renormalize_logits": True, "do_sample": True, "num_beams": 1},
        {"prefill_chunk_size": 4},
        {"max_length": 20, "max_new_tokens": None},
        {"cache_implementation": "dynamic"},
    ],
    ids=lambda generation: next(iter(generation)),
)
def test_generation_settings(model, warm, generation):
    settings = {**GREEDY, **generation}
    torch.manual_seed(2)
    expected = model.generate(PROMPT, **settings)
    for lookahead in (warm, Lookahead()):
        torch.manual_seed(2)
        assert lookahead.generate(model, PROMPT, **settings).tolist() == expected.tolist()


def test_every_end_inside_an_accepted_span(model, warm):
    answer = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    lengths = []
    for token in dict.fromkeys(answer[:12]):
        expected = model.generate(PROMPT, **GREEDY, eos_token_id=[token, 63])
        actual = warm.generate(model, PROMPT, **GREEDY, eos_token_id=[token, 63])
        assert actual.tolist() == expected.tolist()
        lengths.append(warm.last_stats.mean_acceptance_length)
    assert max(lengths) > 2


@pytest.mark.parametrize("new_tokens", range(1, 14))
def test_every_length_limit_inside_an_accepted_span(model, warm, new_tokens):
    expected = model.generate(PROMPT, max_new_tokens=new_tokens, do_sample=False)
    actual = warm.generate(model, PROMPT, max_new_tokens=new_tokens, do_sample=False)
    assert actual.tolist() == expected.tolist()
    assert actual.shape[1] == PROMPT.shape[1] + new_tokens


def test_max_time_stops_after_the_first_token(model, warm):
    actual = warm.generate(model, PROMPT, **GREEDY, max_time=0.0)
    assert actual.shape[1] == PROMPT.shape[1] + 1


def test_a_slow_criterion_stops_at_the_same_token(model, warm):
    class After(StoppingCriteria):
        def __call__(self, input_ids, _scores):
            time.sleep(0)
            return torch.tensor([input_ids.shape[1] >= PROMPT.shape[1] + 6])

    criteria = StoppingCriteriaList([After()])
    actual = warm.generate(model, PROMPT, **GREEDY, stopping_criteria=criteria)
    assert actual.shape[1] == PROMPT.shape[1] + 6
    assert len(criteria) == 1  # the caller's list is left as it was


def test_stop_strings(model, warm):
    tokenizer = tiny_tokenizer()
    answer = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    stop = tokenizer.decode(answer[6:8])
    expected = model.generate(PROMPT, **GREEDY, stop_strings=[stop], tokenizer=tokenizer)
    actual = warm.generate(model, PROMPT, **GREEDY, stop_strings=[stop], tokenizer=tokenizer)
    assert actual.tolist() == expected.tolist()
    assert actual.shape[1] < PROMPT.shape[1] + 40


def test_stop_strings_need_a_tokenizer(model, warm):
    with pytest.raises(ValueError, match="tokenizer"):
        warm.generate(model, PROMPT, **GREEDY, stop_strings=["w5"])


def test_scores_logits_and_cache_are_returned_when_asked_for(model, warm):
    wanted = {**GREEDY, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    wanted["repetition_penalty"] = 1.3
    expected = model.generate(PROMPT, **wanted)
    actual = model.generate(PROMPT, custom_generate=warm, **wanted)
    assert type(actual) is type(expected)
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for name in ("scores", "logits"):
        torch.testing.assert_close(
            torch.cat(getattr(actual, name)), torch.cat(getattr(expected, name)), rtol=1e-4, atol=1e-4
        )
    cache, expected_cache = actual.past_key_values, expected.past_key_values
    assert cache.get_seq_length() == expected_cache.get_seq_length() == actual.sequences.shape[1] - 1
    for layer, expected_layer in zip(cache.layers, expected_cache.layers, strict=True):
        torch.testing.assert_close(layer.keys, expected_layer.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.values, expected_layer.values, rtol=1e-4, atol=1e-4)


def test_a_returned_cache_can_be_cropped_and_continued(model, warm):
    first = model.generate(PROMPT, custom_generate=warm, **GREEDY, return_dict_in_generate=True)
    continued = model.generate(first.sequences, past_key_values=first.past_key_values, **GREEDY)
    assert continued.tolist() == model.generate(first.sequences, **GREEDY).tolist()


def test_a_returned_cache_is_the_librarys_own(model, warm):
    first = model.generate(PROMPT, custom_generate=warm, **GREEDY, return_dict_in_generate=True)
    cache = first.past_key_values
    assert type(cache) is DynamicCache
    length = cache.get_seq_length()
    cache.batch_repeat_interleave(3)
    logits = model(first.sequences[:, length:].repeat(3, 1), past_key_values=cache).logits
    assert logits.shape[0] == 3
    cache.crop(-4)
    assert cache.get_seq_length() == length + 1 - 4


def test_a_callers_own_length_limit(model, warm):
    criteria = StoppingCriteriaList([MaxLengthCriteria(PROMPT.shape[1] + 31)])
    settings = {"max_new_tokens": 5, "do_sample": False, "stopping_criteria": criteria}
    expected = model.generate(PROMPT, **settings)
    actual = warm.generate(model, PROMPT, **settings)
    assert actual.tolist() == expected.tolist()
    assert actual.shape[1] == PROMPT.shape[1] + 31


def test_stop_strings_in_the_generation_config(model, warm):
    tokenizer = tiny_tokenizer()
    answer = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    config = GenerationConfig(**GREEDY, stop_strings=[tokenizer.decode(answer[6:8])], pad_token_id=0)
    expected = model.generate(PROMPT, generation_config=config, tokenizer=tokenizer)
    actual = warm.generate(model, PROMPT, generation_config=config, tokenizer=tokenizer)
    assert actual.tolist() == expected.tolist()
    assert actual.shape[1] < PROMPT.shape[1] + 40


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_drafts_stay_within_a_table_of_positions(family):
    model = tiny_model(family)
    start = prompt(3, 230)
    settings = {"max_new_tokens": 100, "do_sample": False}
    answer = model.generate(start, max_new_tokens=26, do_sample=False)[0, 230:].tolist()
    end = next(token for token in reversed(answer) if answer.index(token) > 20)
    expected = model.generate(start, **settings, eos_token_id=[end, 63])
    lookahead = Lookahead(LookaheadConfig(branch_length=30))
    for _ in ("cold", "warm"):
        assert (
            lookahead.generate(model, start, **settings, eos_token_id=[end, 63]).tolist() == expected.tolist()
        )


def test_a_model_in_training_mode_draws_what_generate_draws():
    model = tiny_model("gpt2").train()
    lookahead = Lookahead()
    torch.manual_seed(4)
    expected = model.generate(PROMPT, **GREEDY)
    torch.manual_seed(4)
    assert lookahead.generate(model, PROMPT, **GREEDY).tolist() == expected.tolist()


def test_left_padding(model, warm):
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), PROMPT], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 5).long()[None]
    expected = model.generate(padded, attention_mask=mask, **GREEDY)
    actual = warm.generate(model, padded, attention_mask=mask, **GREEDY)
    assert actual.tolist() == expected.tolist()
    assert warm.last_stats.mean_acceptance_length > 2


def test_left_padding_with_a_sliding_window():
    model = tiny_model("mistral")
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), PROMPT], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 5).long()[None]
    warm = prepared(LookaheadConfig(decoding_length=16), "warm", model, [PROMPT], **GREEDY)
    expected = model.generate(padded, attention_mask=mask, **GREEDY)
    assert warm.generate(model, padded, attention_mask=mask, **GREEDY).tolist() == expected.tolist()


def test_input_embeddings_instead_of_tokens(model, warm):
    embeddings = model.get_input_embeddings()(PROMPT)
    expected = model.generate(inputs_embeds=embeddings, **GREEDY)
    actual = warm.generate(model, inputs_embeds=embeddings, **GREEDY)
    assert actual.tolist() == expected.tolist()

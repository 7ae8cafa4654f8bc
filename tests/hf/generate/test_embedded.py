"""A few real answers of the embedded model, end to end.

In `make test` they are short and in one draft mode, where small models' are in all; in `make verify` they are
three times as long and in every mode.
"""

from copy import deepcopy

import pytest
import torch
from transformers import TextIteratorStreamer

from helpers.samples import IS_WHOLE, sampled
from lookahead import DraftMode, Lookahead, LookaheadConfig

pytestmark = [pytest.mark.model, pytest.mark.matrix]
NEW_TOKENS = 48 if IS_WHOLE else 16

QUESTIONS = [
    "Repeat this sentence twice: The ferry to Brenholm leaves at nine and returns at five.",
    "Write a Python function that adds two numbers, and call it.",
]
GREEDY = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
SAMPLING = {
    "max_new_tokens": NEW_TOKENS,
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
}


def way_of(settings):
    return "sampling" if settings["do_sample"] else "greedy"


@pytest.fixture(scope="module")
def prompts(embedded):
    _, tokenizer = embedded
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def greedy_answers(embedded, prompts):
    model, _ = embedded
    return [model.generate(**inputs, **GREEDY).tolist() for inputs in prompts]


@pytest.mark.parametrize("mode", sampled(DraftMode, [DraftMode.HIERARCHICAL]))
def test_greedy_text_is_the_same_cold_and_warm(embedded, prompts, greedy_answers, mode):
    model, _ = embedded
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, draft_mode=mode))
    lengths = []
    for _ in ("cold", "warm"):
        lookahead.reset_stats()
        for inputs, expected in zip(prompts, greedy_answers, strict=True):
            assert model.generate(**inputs, custom_generate=lookahead, **GREEDY).tolist() == expected
        lengths.append(lookahead.stats.mean_acceptance_length)
    cold, warm = lengths
    assert warm > cold > 1


def test_sampled_text_is_the_same_with_the_same_seed(embedded, prompts):
    model, _ = embedded
    lookahead = Lookahead()
    for inputs in prompts if IS_WHOLE else prompts[1:]:
        torch.manual_seed(11)
        expected = model.generate(**inputs, **SAMPLING).tolist()
        torch.manual_seed(11)
        assert lookahead.generate(model, **inputs, **SAMPLING).tolist() == expected


def test_streamed_text_is_the_text(embedded, prompts):
    model, tokenizer = embedded
    inputs = prompts[0]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = Lookahead().generate(model, **inputs, **GREEDY, streamer=streamer)
    pieces = list(streamer)
    answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(pieces) == answer
    assert len(pieces) > 1


def test_a_stop_string_of_real_text(embedded, prompts):
    model, tokenizer = embedded
    wanted = {**GREEDY, "stop_strings": ["Brenholm"], "tokenizer": tokenizer}
    expected = model.generate(**prompts[0], **wanted).tolist()
    assert Lookahead().generate(model, **prompts[0], **wanted).tolist() == expected


def test_the_probe_trusts_the_embedded_model_in_bfloat16(embedded_bfloat16, prompts):
    model, _ = embedded_bfloat16
    lookahead = Lookahead()  # a fallback to plain steps would warn, and warnings are errors
    lookahead.generate(model, **prompts[0], max_new_tokens=8, do_sample=False)
    assert lookahead.stats.draft_tokens > 0


@pytest.mark.parametrize("settings", sampled([SAMPLING, GREEDY], [SAMPLING]), ids=way_of)
def test_a_padded_batch_of_real_prompts(embedded, settings):
    model, tokenizer = embedded[0], deepcopy(embedded[1])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # 5.16 reads none from the file
    chats = [[{"role": "user", "content": question}] for question in (*QUESTIONS, "Count to twelve.")]
    inputs = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
        tokenizer_kwargs={"padding_side": "left"},
    )
    lookahead = Lookahead(LookaheadConfig(decoding_length=24))
    torch.manual_seed(11)
    expected = model.generate(**inputs, **settings).tolist()
    with lookahead.attach(model):
        torch.manual_seed(11)
        assert model.generate(**inputs, **settings).tolist() == expected
    assert lookahead.stats.mean_acceptance_length > 1
    assert lookahead.stats.requests == 3

"""The embedded model's steps, fused: real weights, real text, a prompt longer than a span of keys."""

import pytest
import torch

from helpers.fused_steps import fused_steps
from helpers.memories import STATES, prepared
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu.kernels.attention.pieces import SPAN

__all__ = ["fused_steps"]
pytestmark = pytest.mark.model

SENTENCES = [
    f"On day {day} of the voyage the crew of the Brenholm counted {day * 7 % 23} whales and {day} islands."
    for day in range(1, 26)
]
QUESTIONS = [
    "Name three fruits, and say of each which colour it has.",
    f"{' '.join(SENTENCES)}\nRepeat the first two sentences of this report.",
]
GREEDY = {"max_new_tokens": 10, "do_sample": False}
SAMPLING = {"max_new_tokens": 10, "do_sample": True, "temperature": 0.8, "top_p": 0.95}


def prompts_of(tokenizer):
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        for question in QUESTIONS
    ]


def test_in_float32_the_text_is_generates(embedded, fused_steps):
    model, tokenizer = embedded
    short, long = prompts_of(tokenizer)
    assert short.shape[1] < 64
    assert long.shape[1] > max(600, SPAN)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    for token_ids in (short, long):
        expected = model.generate(token_ids, **GREEDY).tolist()
        lookahead.memory.warm(expected)
        fused_steps.taken()
        assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
        assert fused_steps.taken() >= lookahead.last_stats.forwards
        assert lookahead.last_stats.mean_acceptance_length > 2


@pytest.mark.parametrize("settings", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_in_bfloat16_the_text_does_not_depend_on_what_is_drafted(settings, embedded_bfloat16, fused_steps):
    model, tokenizer = embedded_bfloat16
    token_ids = prompts_of(tokenizer)[0]
    texts = []
    for state, decoding_length in zip(STATES, [3, 16, 8], strict=True):
        lookahead = prepared(
            LookaheadConfig(decoding_length=decoding_length), state, model, [token_ids], **settings
        )
        fused_steps.taken()
        torch.manual_seed(11)
        texts.append(lookahead.generate(model, token_ids, **settings).tolist())
        assert fused_steps.taken() >= lookahead.last_stats.forwards
    assert all(text == texts[0] for text in texts)

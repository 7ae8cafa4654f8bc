"""Comparing Lookahead's text with that of generate."""

import torch

NEW_TOKENS = 28
"""Behind a prompt of 12 tokens, they cross every window, chunk and boundary of the tiny models."""

GREEDY = {"max_new_tokens": NEW_TOKENS, "do_sample": False}


SAMPLING = {
    "max_new_tokens": NEW_TOKENS,
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
}


PLAIN = {
    "bailing_hybrid",
    "bamba",
    "cpmant",
    "deepseek_v32",
    "falcon_h1",
    "falcon_mamba",
    "glm_moe_dsa",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "mamba",
    "mamba2",
    "minimax",
    "nemotron_h",
    "olmo_hybrid",
    "openai-gpt",
    "qwen3_5",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "xlstm",
    "zamba2",
}
"""Recurrent, hybrid and sparse ones; GPT-1, which has no cache; CPM-Ant, which keeps its past its own way."""


def assert_same_text(model, lookahead, token_ids, **generation):
    torch.manual_seed(5)
    expected = model.generate(token_ids, **generation)
    next_random = torch.rand(1)
    torch.manual_seed(5)
    actual = model.generate(token_ids, custom_generate=lookahead, **generation)
    assert actual.tolist() == expected.tolist()
    assert torch.equal(torch.rand(1), next_random)


def text_or_error(call):
    """Return the token ids that a call returns, or the type of the error that it raises."""
    try:
        return call().tolist()
    except Exception as error:  # noqa: BLE001  # whatever `generate` raises
        return type(error)

"""Chats that hand their cache on."""

from functools import partial

import torch

from helpers.tiny_models import prompt
from lookahead.hf.compat.layout import marks_callers_caches


def chat(model, mode, cache, *, rows=1, **settings):
    """The text after each turn: the answer so far, and then something new from the user."""
    text = torch.cat([prompt(seed) for seed in range(rows)])
    generate = partial(model.generate, custom_generate=mode)
    if mode is not None and not marks_callers_caches():  # 5.16 tells no callable whose an empty cache is
        generate = partial(mode.generate, model)
    texts = []
    for turn in range(3):
        torch.manual_seed(turn)
        text = generate(text, past_key_values=cache, max_new_tokens=14, **settings)
        texts.append(text.tolist())
        text = torch.cat([text, prompt(9 + turn, 5).expand(rows, -1)], dim=1)
    return texts


def assert_same_cache(actual, expected):
    assert actual.get_seq_length() == expected.get_seq_length()
    assert len(actual.layers) == len(expected.layers)
    for layer, expected_layer in zip(actual.layers, expected.layers, strict=True):
        assert type(layer) is type(expected_layer)
        if hasattr(expected_layer, "keys"):  # some borrow those of other layers
            torch.testing.assert_close(layer.keys, expected_layer.keys, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(layer.values, expected_layer.values, rtol=1e-3, atol=1e-4)

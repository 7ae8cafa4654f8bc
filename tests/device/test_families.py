"""Families on the emulated device: greedy, sampled and in batches they say what `generate` says, captured.

`make test` takes eight of them, alone greedily and sampled in a batch; `make test-device` all of everything.
"""

import pytest
import torch

from helpers.samples import IS_WHOLE, sampled
from helpers.tiny_models import prompt
from lookahead import Lookahead, LookaheadConfig

GREEDY = {"max_new_tokens": 24, "do_sample": False}
SAMPLING = {"max_new_tokens": 24, "do_sample": True, "temperature": 0.8, "repetition_penalty": 1.1}
CAPTURED = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gemma3n", "mixtral", "qwen3_moe", "gpt_oss"),
    *("olmo2", "deepseek_v3", "granite", "cohere2", "gpt2", "phi", "phi3", "diffllama", "smollm3", "glm4"),
]
SAMPLE = ["llama", "mistral", "gemma2", "gemma3", "mixtral", "gpt_oss", "deepseek_v3"]
NOT_CAPTURED = {
    "llama4_text": "its layers depend on the length of the cache",
    "bloom": "its attention knows positions by slots, not by an input",
    "phi3-longrope": "its rotary frequencies change with the length of the text",
}
"""Families of which no step is captured, with the reason."""


def assert_same_text(model, token_ids, **generation):
    """Cold, with captures, and warm, by replays, the text is that of `generate`."""
    torch.manual_seed(5)
    expected = model.generate(token_ids, **generation).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    for _ in ("cold", "warm"):
        torch.manual_seed(5)
        assert lookahead.generate(model, token_ids, **generation).tolist() == expected
    assert lookahead.stats.mean_acceptance_length > 1.1


def assert_same_texts(model):
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    mask = (torch.arange(12)[None] >= torch.tensor([[0], [3], [5]])).long()
    batch, mask = (token_ids * mask).to("cuda"), mask.to("cuda")
    alone = prompt(0).to("cuda")
    of_batch = {"attention_mask": mask, "eos_token_id": [11, 20], "pad_token_id": 0}
    assert_same_text(model, alone, **GREEDY)
    assert_same_text(model, batch, **of_batch, **SAMPLING)
    if IS_WHOLE:
        assert_same_text(model, alone, **SAMPLING)
        assert_same_text(model, batch, **of_batch, **GREEDY)


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(CAPTURED, SAMPLE))
def test_captured_families_give_the_text_of_generate(family, on_device, device):
    assert_same_texts(on_device(family))
    assert device.captures > 1


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(NOT_CAPTURED, ["bloom"]))
def test_families_that_are_not_captured_give_the_text_of_generate(family, on_device, device):
    assert_same_texts(on_device(family))
    assert device.captures == 0, NOT_CAPTURED[family]


def test_half_precision(on_device, device):
    model = on_device("llama", torch.bfloat16)
    token_ids = prompt(0).to("cuda")
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    texts = [lookahead.generate(model, token_ids, **GREEDY).tolist() for _ in range(2)]
    assert texts[0][0][:12] == prompt(0)[0].tolist()
    assert texts[0] == texts[1]  # captured and replayed alike
    assert device.captures > 0

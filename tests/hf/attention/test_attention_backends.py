"""Attention functions that take no tree's mask give way to SDPA for a tree's forward, and only for that."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.compat.attention import attend_by, attention_name
from lookahead.hf.compat.changes import TemporaryChanges

GREEDY = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture
def calls(monkeypatch):
    """Stands in for flash attention, which needs an accelerator: causal, and no mask but padding's."""
    seen = []

    def flash_like(module, query, key, value, attention_mask, **kwargs):
        assert attention_mask is None or attention_mask.ndim == 2, "flash attention takes no such mask"
        assert attention_mask is None or bool(attention_mask.all())
        seen.append(query.shape[2])
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(
            key.shape[2] - query.shape[2]
        )
        return sdpa_attention_forward(module, query, key, value, causal[None, None], **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", flash_like)
    return seen


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("do_sample", [False, True])
def test_flash_attention(calls, do_sample, rows):
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    token_ids = torch.cat([prompt(seed) for seed in range(rows)])
    lookahead = Lookahead(LookaheadConfig(decoding_length=16 * rows))
    settings = {"max_new_tokens": 24, "do_sample": do_sample}
    for _ in ("cold", "warm"):
        torch.manual_seed(2)
        expected = model.generate(token_ids, **settings)
        calls.clear()
        torch.manual_seed(2)
        assert lookahead.generate(model, token_ids, **settings).tolist() == expected.tolist()
    assert lookahead.last_stats.mean_acceptance_length > 1.5
    assert calls[:2] == [token_ids.shape[1]] * 2  # in both layers the prompt is read by the model's own
    assert set(calls[2:]) <= {1}
    assert model.config._attn_implementation == "flash_attention_2"


def test_where_sdpa_cannot_take_its_place_drafts_have_one_branch(calls, monkeypatch):
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    monkeypatch.setattr(type(model), "_supports_sdpa", False)
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    expected = model.generate(prompt(0), **GREEDY)
    with pytest.warns(UserWarning, match=r"drafts of one branch.*flash_attention_2, takes no tree mask"):
        assert lookahead.generate(model, prompt(0), **GREEDY).tolist() == expected.tolist()
    lookahead.generate(model, prompt(0), **GREEDY)
    assert lookahead.last_stats.mean_acceptance_length > 1.5
    assert max(calls[2:]) > 1


def test_the_attention_of_another_thread_keeps_its_name():
    model = tiny_model("llama")
    for own in ("sdpa", "flash_attention_2", "eager"):
        model.config._attn_implementation = own
        changes = TemporaryChanges()
        with changes:
            attend_by(model, "test", lambda *_: None, changes)
            assert model.config._attn_implementation.startswith("lookahead_test_for_")
            assert "flash" not in model.config._attn_implementation
            assert attention_name(model) == own
        assert model.config._attn_implementation == own


def test_an_attention_function_of_ones_own_is_tried(monkeypatch):
    model = tiny_model("llama")

    def attend(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key * 0.5, value, attention_mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "mine", attend)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "mine", sdpa_mask)
    model.config._attn_implementation = "mine"
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    for _ in ("cold", "warm"):
        expected = model.generate(prompt(0), **GREEDY)
        assert lookahead.generate(model, prompt(0), **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.mean_acceptance_length > 1.2

"""Models whose steps are fused: in float32 `generate`'s text; in bfloat16 one text, whatever is drafted."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from transformers.cache_utils import DynamicCache

from helpers.caches import assert_same_cache, chat
from helpers.fused_steps import fused_steps
from helpers.memories import STATES, prepared
from helpers.samples import sampled
from helpers.tiny_models import COMPILED, FUSED_VOCABULARY, prompt, tiny_model
from lookahead import DraftMode, Lookahead, LookaheadConfig
from lookahead.hf.steps.compiled_cpu import unsupported_reason

__all__ = ["fused_steps"]
GREEDY = {"max_new_tokens": 28, "do_sample": False}
SAMPLING = {"max_new_tokens": 28, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
SETTINGS = pytest.mark.parametrize("settings", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
LENGTHS = [1, 8, 16]


def text_of(generate, *arguments, **settings):
    torch.manual_seed(5)
    return generate(*arguments, **settings).tolist()


def long_prompt(length, seed=0):
    """int64 [1, length] of the whole vocabulary, which repeats itself."""
    generator = torch.Generator().manual_seed(seed)
    piece = torch.randint(1, FUSED_VOCABULARY, (length // 3,), generator=generator)
    return piece.repeat(4)[:length][None]


def padded(prompts):
    """Return rows padded on the left, and their mask."""
    longest = max(row.shape[1] for row in prompts)
    rows = [torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in prompts]
    seen = [torch.nn.functional.pad(torch.ones_like(row), (longest - row.shape[1], 0)) for row in prompts]
    return torch.cat(rows), torch.cat(seen)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "settings"),
    sampled(
        product(COMPILED, [GREEDY, SAMPLING]),
        [(family, (GREEDY, SAMPLING)[place % 2]) for place, family in enumerate(COMPILED)],
    ),
)
def test_same_text_in_every_family(family, settings, fused_steps):
    """The sample has each family, greedy or sampling in turn."""
    model = tiny_model(family)
    assert unsupported_reason(model) == ""
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    for seed in range(3):
        expected = text_of(model.generate, prompt(seed), **settings)
        lookahead.memory.warm(expected)
        fused_steps.taken()
        assert text_of(lookahead.generate, model, prompt(seed), **settings) == expected
        restarted = 1 if family == "fused-longrope" else 0  # reads everything anew where frequencies change
        assert fused_steps.taken() >= lookahead.last_stats.forwards - restarted > 0
    assert lookahead.stats.mean_acceptance_length > 1.2


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("decoding_length", LENGTHS)
def test_same_text_with_every_memory_and_length(decoding_length, state, fused_steps):
    model = tiny_model("fused-qwen3")
    config = LookaheadConfig(decoding_length=decoding_length)
    for settings in (GREEDY, SAMPLING):
        lookahead = prepared(config, state, model, [prompt(0)], **settings)
        assert text_of(lookahead.generate, model, prompt(0), **settings) == text_of(
            model.generate, prompt(0), **settings
        )
    assert fused_steps.taken() > 0


@pytest.mark.parametrize("mode", list(DraftMode))
def test_same_text_in_every_mode(mode, fused_steps):
    model = tiny_model("fused-mistral")
    lookahead = prepared(LookaheadConfig(draft_mode=mode), "warm", model, [prompt(1)], **GREEDY)
    assert text_of(lookahead.generate, model, prompt(1), **GREEDY) == text_of(
        model.generate, prompt(1), **GREEDY
    )
    assert fused_steps.taken() > 0


@pytest.mark.parametrize("family", ["fused-llama", "fused-qwen2"])
@pytest.mark.parametrize("length", [50, 490, 1010])
def test_texts_that_cross_the_borders_of_blocks_and_spans(family, length, fused_steps):
    model = tiny_model(family)
    for settings in (GREEDY, SAMPLING):
        expected = text_of(model.generate, long_prompt(length), **settings)
        lookahead = Lookahead(LookaheadConfig(decoding_length=16))
        lookahead.memory.warm(expected)
        assert text_of(lookahead.generate, model, long_prompt(length), **settings) == expected
        assert lookahead.last_stats.mean_acceptance_length > 1.5
    assert fused_steps.lengths[-1][0] > length + 14


def test_a_cache_that_grows_meanwhile(fused_steps):
    model = tiny_model("fused-llama-tied")
    wanted = {"max_new_tokens": 560, "do_sample": False}
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    assert text_of(lookahead.generate, model, prompt(0), **wanted) == text_of(
        model.generate, prompt(0), **wanted
    )
    assert fused_steps.lengths[-1][0] > 512


@SETTINGS
@pytest.mark.parametrize("family", ["fused-llama", "fused-mistral", "fused-qwen2", "fused-qwen3"])
def test_batches_with_padding(family, settings, fused_steps):
    model = tiny_model(family)
    token_ids, mask = padded([prompt(0), prompt(1, 5), long_prompt(90), prompt(2, 1)])
    lookahead = Lookahead(LookaheadConfig(decoding_length=32))
    for _ in ("cold", "warm"):
        expected = text_of(model.generate, token_ids, attention_mask=mask, **settings)
        actual = text_of(lookahead.generate, model, token_ids, attention_mask=mask, **settings)
        assert actual == expected
    assert lookahead.stats.mean_acceptance_length > 1.2
    assert any(len(set(lengths)) > 1 for lengths in fused_steps.lengths)  # rows advanced unevenly


def test_padding_in_the_middle_is_left_to_the_models_own_code(fused_steps):
    model, token_ids = tiny_model("fused-llama"), prompt(0)
    mask = torch.ones_like(token_ids)
    mask[0, 4:6] = 0
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    lookahead.generate(model, prompt(0), **GREEDY)
    fused_steps.taken()
    expected = text_of(model.generate, token_ids, attention_mask=mask, **GREEDY)
    assert text_of(lookahead.generate, model, token_ids, attention_mask=mask, **GREEDY) == expected
    assert fused_steps.taken() == 0


@SETTINGS
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", ["fused-llama", "fused-mistral"])
def test_caches_of_the_callers(family, rows, settings, fused_steps):
    model = tiny_model(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=6 * rows))
    settings = {name: value for name, value in settings.items() if name != "max_new_tokens"}
    mine, theirs = DynamicCache(config=model.config), DynamicCache(config=model.config)
    expected = chat(model, None, theirs, rows=rows, **settings)
    assert chat(model, lookahead, mine, rows=rows, **settings) == expected
    assert_same_cache(mine, theirs)
    assert fused_steps.taken() > 0


@pytest.mark.parametrize(
    "family", ["fused-llama", "fused-mistral", "fused-qwen2", "fused-qwen3", "fused-yarn"]
)
def test_in_bfloat16_the_text_does_not_depend_on_what_is_drafted(family, fused_steps):
    model = tiny_model(family, torch.bfloat16)
    token_ids = long_prompt(60)
    for settings in (GREEDY, SAMPLING):
        texts = []
        for decoding_length, state in zip((2, 8, 16, 16, "auto"), [*STATES, *STATES[1::-1]], strict=True):
            config = LookaheadConfig(decoding_length=decoding_length)
            lookahead = prepared(config, state, model, [token_ids], **settings)
            fused_steps.taken()
            texts.append(text_of(lookahead.generate, model, token_ids, **settings))
            assert fused_steps.taken() >= lookahead.last_stats.forwards
        assert all(text == texts[0] for text in texts)


def test_without_fused_steps_the_models_own_code_is_used(fused_steps):
    model = tiny_model("fused-llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8, compiled_cpu=False))
    assert text_of(lookahead.generate, model, prompt(0), **GREEDY) == text_of(
        model.generate, prompt(0), **GREEDY
    )
    assert fused_steps.taken() == 0
    assert lookahead.stats.draft_tokens > 0


def test_two_threads_and_one_model(fused_steps):
    model = tiny_model("fused-qwen2")
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    prompts = [prompt(seed) for seed in range(6)]
    expected = [model.generate(token_ids, **GREEDY).tolist() for token_ids in prompts]
    lookahead.generate(model, prompts[0], **GREEDY)
    with ThreadPoolExecutor(2) as threads:
        texts = threads.map(
            lambda token_ids: lookahead.generate(model, token_ids, **GREEDY).tolist(), prompts
        )
        assert list(texts) == expected
    assert fused_steps.taken() > 0

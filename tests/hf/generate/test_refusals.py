"""Unsupported calls raise before anything is generated or learned; failed calls leave no trace."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LogitsProcessorList,
)

from helpers.streamers import Breaking
from helpers.tiny_models import prompt, tiny_model
from lookahead import DraftMemory, Lookahead
from lookahead.errors import (
    ConfigError,
    LookaheadError,
    PromptTooLongError,
    UnsupportedGenerationError,
    UnsupportedModelError,
    VocabularyMismatchError,
)

PROMPT = prompt(0)
GREEDY = {"max_new_tokens": 30, "do_sample": False}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "the generation mode='contrastive_search'"),
        ({"prompt_lookup_num_tokens": 3}, "the generation mode='assisted_generation'"),
        ({"use_cache": False}, "use_cache=False"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions=True"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states=True"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_settings_are_refused_by_name(model, setting, named):
    lookahead = Lookahead()
    if "output_attentions" in setting:
        model.set_attn_implementation("eager")
    with pytest.raises(UnsupportedGenerationError, match=named):
        model.generate(PROMPT, custom_generate=lookahead, **{**GREEDY, **setting})
    assert lookahead.memory.namespaces == {}
    assert lookahead.stats.tokens == 0


def test_other_ways_of_decoding_are_refused_by_name(model):
    for name in ("assistant_model", "custom_generate"):
        with pytest.raises(UnsupportedGenerationError, match=f"{name}='LlamaForCausalLM'"):
            Lookahead().generate(model, PROMPT, **{name: model}, **GREEDY)


def test_a_prompt_longer_than_the_context_is_refused(model):
    with pytest.raises(PromptTooLongError, match=r"300 tokens.*context is 256"):
        Lookahead().generate(model, prompt(1, 300), **GREEDY)


def test_an_encoder_decoder_is_refused():
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    for generate in (
        lambda **kwargs: Lookahead().generate(model, PROMPT, **kwargs),
        lambda **kwargs: model.generate(PROMPT, custom_generate=Lookahead(), **kwargs),
    ):
        with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
            generate(**GREEDY)


def test_another_vocabulary_is_refused(model):
    lookahead = Lookahead()
    lookahead.generate(model, PROMPT, **GREEDY)
    config = AutoConfig.for_model("gpt2", vocab_size=99, n_embd=8, n_layer=1, n_head=1, n_positions=64)
    other = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(VocabularyMismatchError, match=r"64.*99"):
        lookahead.generate(other, PROMPT, **GREEDY)


def test_every_refusal_is_a_lookahead_error():
    for error in (
        UnsupportedModelError,
        UnsupportedGenerationError,
        PromptTooLongError,
        VocabularyMismatchError,
    ):
        assert issubclass(error, LookaheadError)


@pytest.mark.parametrize("error", [ValueError("broken callback"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_exception_forgets_the_prompt_and_leaves_everything_usable(model, error, after):
    lookahead = Lookahead()
    lookahead.generate(model, PROMPT, **GREEDY)
    implementation = model.config._attn_implementation
    with pytest.raises(type(error)):
        lookahead.generate(
            model, prompt(9), **GREEDY, logits_processor=LogitsProcessorList([Breaking(error, after)])
        )
    assert lookahead.memory.store._requests == {}
    assert lookahead.last_stats.tokens <= after
    assert model.config._attn_implementation == implementation
    expected = model.generate(PROMPT, **GREEDY)
    assert lookahead.generate(model, PROMPT, **GREEDY).tolist() == expected.tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_while_the_prompt_is_read_forgets_it(model, monkeypatch, error):
    lookahead = Lookahead()
    insert = lookahead.memory.store.insert

    def interrupted(request, tokens, origin):
        insert(request, tokens, origin)
        raise error

    lookahead.generate(model, PROMPT, max_new_tokens=1)
    held = lookahead.memory.namespaces
    monkeypatch.setattr(lookahead.memory.store, "insert", interrupted)
    with pytest.raises(error):
        lookahead.generate(model, PROMPT, **GREEDY)
    assert lookahead.memory.store._requests == {}
    assert lookahead.memory.namespaces == held


def test_a_memory_serves_one_vocabulary_in_any_lookahead(model):
    memory = DraftMemory()
    Lookahead(memory=memory).generate(model, PROMPT, **GREEDY)
    config = AutoConfig.for_model("gpt2", vocab_size=99, n_embd=8, n_layer=1, n_head=1, n_positions=64)
    other = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(VocabularyMismatchError, match=r"64.*99"):
        Lookahead(memory=memory).generate(other, PROMPT, **GREEDY)


@pytest.mark.parametrize("config", [{"decoding_length": 16}, 16])
def test_settings_that_are_no_config_are_refused(config):
    with pytest.raises(ConfigError, match=r"is not a LookaheadConfig; give LookaheadConfig\("):
        Lookahead(config)


def test_too_long_embeddings_are_refused(model):
    embeddings = model.get_input_embeddings()(prompt(1, 300))
    with pytest.raises(PromptTooLongError, match="300 tokens"):
        Lookahead().generate(model, inputs_embeds=embeddings, **GREEDY)


def test_a_prompt_in_chunks_is_refused_where_longrope_would_start_the_cache_anew():
    model = tiny_model("phi3-longrope")
    with pytest.raises(UnsupportedGenerationError, match=r"prefill_chunk_size=4.*longrope"):
        Lookahead().generate(model, PROMPT, prefill_chunk_size=4, **GREEDY)


def test_a_prompt_never_shows_in_another_requests_drafts(model):
    secret = torch.full((1, 12), 40)
    secret[:, ::2] = 41
    lookahead = Lookahead()
    lookahead.generate(model, secret, max_new_tokens=1, do_sample=False)
    tokens = lookahead.memory.store.snapshot()["tokens"]
    assert 41 not in tokens.tolist() or model.generate(secret, max_new_tokens=1)[0, -1] == 41

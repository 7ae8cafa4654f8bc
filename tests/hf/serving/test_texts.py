"""Every text of the engine is that of the request alone, whoever else is served."""

import random
from itertools import product

import pytest
import torch

from helpers.samples import sampled
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.engine.request import Request, Sampling
from lookahead.engine.settings import EngineSettings
from lookahead.hf.serving.arguments import generate_arguments
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.eager import FlatRunner

NEW_TOKENS = 14
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.8, top_p=0.9, seed=3),
    Sampling(temperature=1.2, top_k=12, min_p=0.01, seed=4),
    Sampling(temperature=0.7, seed=5, presence_penalty=0.5, frequency_penalty=0.7),
    Sampling(repetition_penalty=1.3, logit_bias={5: 2.0, 7: -100.0}, bad_words=[[9], [11, 12]]),
    Sampling(temperature=1.0, seed=6, min_tokens=8),
]


def requests(count, *, seed=0, **others):
    """Different requests, some with prompts that begin alike."""
    chance = random.Random(seed)
    shared = prompt(99, 70)[0].tolist()
    found = []
    for index in range(count):
        own = prompt(index % 7, 3 + 5 * (index % 4))[0].tolist()
        found.append(
            Request(
                prompt_ids=[*shared, *own] if chance.random() < 0.5 else own,
                max_tokens=NEW_TOKENS,
                sampling=SAMPLINGS[index % len(SAMPLINGS)],
                stop_ids=[17] if index % 3 == 0 else [],
                **others,
            )
        )
    return found


def alone(generate, model, request):
    """The answer's tokens from `generate` or `la.generate` with the request's arguments."""
    if request.sampling.seed is not None:
        torch.manual_seed(request.sampling.seed)
    answer = generate(**generate_arguments(model, request))
    return answer[0, len(request.prompt_ids) :].tolist()


def served(engine, asked, *, seed=0):
    """The answers to requests that arrive at random moments; some others are cancelled on the way."""
    chance, streams = random.Random(seed), []
    for request in asked:
        streams.append(engine.submit(request))
        if chance.random() < 0.3:
            other = engine.submit(request)
            if chance.random() < 0.5:
                other.get(timeout=60)
            other.cancel()
    return [list(stream.result(timeout=60).tokens) for stream in streams]


FAMILIES = ["llama", "gemma3", "fused-llama", "fused-qwen3"]
OTHERS = ["gpt2", "mixtral", "gpt_oss", "gemma2", "gemma3n", "deepseek_v3"]
"""Further families whose own code takes ragged rows: learned positions, experts, sinks, soft caps, shared and
latent keys."""


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "rows", "prefix_cache"),
    sampled(
        product(FAMILIES + OTHERS, [1, 2, 8], [True, False]),
        [
            *((family, 8, True) for family in FAMILIES),
            ("llama", 1, True),
            ("gemma3", 2, False),
            ("fused-llama", 8, False),
            ("fused-qwen3", 1, True),
            ("fused-llama", 2, True),
            ("gpt_oss", 8, True),
            ("gemma3n", 8, False),
        ],
    ),
)
def test_texts_are_those_of_generate(family, rows, prefix_cache):
    """The sample has each family in full batches with prefixes, and both kinds in the other ways."""
    model = tiny_model(family)
    if family.startswith("fused") and unsupported_reason(model):
        pytest.skip(f"no compiled decoder here: {unsupported_reason(model)}")
    asked = requests(12)
    expected = [alone(model.generate, model, request) for request in asked]
    la = Lookahead()
    settings = EngineSettings(max_rows=rows, max_step_tokens=24, prefix_cache=prefix_cache)
    with la.engine(model, settings=settings) as engine:
        for seed in range(2):  # the second time, the memory and the prefix cache hold everything
            assert served(engine, asked, seed=seed) == expected
        stats = engine.stats()
    assert stats.generation.accepted_tokens > 0
    assert (stats.cached_tokens > 0) is prefix_cache
    assert stats.finished.get("stop", 0) + stats.finished.get("length", 0) >= 24


@pytest.mark.parametrize(("family", "compiled_cpu"), [("fused-llama", False), ("gemma3", True)])
def test_ragged_steps_of_a_models_own_code_give_the_texts_of_generate(family, compiled_cpu, monkeypatch):
    model, steps = tiny_model(family), []
    own = FlatRunner.forward

    def forward(this, batch, rows, logits_of):
        steps.append(rows.sizes)
        return own(this, batch, rows, logits_of)

    monkeypatch.setattr(FlatRunner, "forward", forward)
    asked = requests(12, seed=1)
    expected = [alone(model.generate, model, request) for request in asked]
    la = Lookahead(LookaheadConfig(compiled_cpu=compiled_cpu, decoding_length=16))
    with la.engine(model, settings=EngineSettings(max_step_tokens=64)) as engine:
        for seed in range(2):
            assert served(engine, asked, seed=seed) == expected
        assert engine._runner._step_model.is_ragged
    assert any(len(sizes) > 1 and len(set(sizes)) > 1 for sizes in steps)
    assert all(sum(sizes) <= 64 for sizes in steps)


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_bfloat16_answers_of_the_compiled_decoder_have_the_bits_of_the_request_alone(sampled):
    model = tiny_model("fused-llama").to(torch.bfloat16)
    if unsupported_reason(model):
        pytest.skip(f"no compiled decoder here: {unsupported_reason(model)}")
    la = Lookahead(LookaheadConfig(decoding_length=1))
    asked = [
        Request(
            prompt_ids=prompt(index, 40 + 20 * (index % 3))[0].tolist(),
            max_tokens=NEW_TOKENS,
            sampling=Sampling(temperature=0.9, seed=index) if sampled else Sampling(),
            logprobs=3,
        )
        for index in range(10)
    ]
    with Lookahead().engine(model, settings=EngineSettings(max_rows=1)) as engine:
        first = [engine.submit(request).result(timeout=60) for request in asked]
    expected = [alone(lambda **kwargs: la.generate(model, **kwargs), model, request) for request in asked]
    assert [list(answer.tokens) for answer in first] == expected
    with Lookahead().engine(model, settings=EngineSettings(max_rows=8, max_step_tokens=32)) as engine:
        for _ in range(2):
            streams = [engine.submit(request) for request in asked]
            answers = [stream.result(timeout=60) for stream in streams]
            assert [answer.tokens for answer in answers] == [answer.tokens for answer in first]
            assert [answer.logprobs for answer in answers] == [answer.logprobs for answer in first]


@pytest.mark.parametrize("family", ["llama", "fused-llama"])
def test_a_full_cache_lets_the_last_request_start_anew_and_changes_no_text(family):
    model = tiny_model(family, max_position_embeddings=2048)
    asked = [
        Request(
            prompt_ids=prompt(seed)[0].tolist(),
            max_tokens=100,
            sampling=Sampling(temperature=0.8, seed=seed) if seed % 2 else Sampling(),
        )
        for seed in range(6)
    ]
    expected = [alone(model.generate, model, request) for request in asked]
    with Lookahead().engine(model) as engine:
        bytes_per_token = engine._runner._step_model.cache.arena.bytes_per_token
    settings = EngineSettings(max_step_tokens=24, cache_bytes=max(2**16, 330 * bytes_per_token))
    with Lookahead().engine(model, settings=settings) as engine:
        assert engine.stats().max_cache_tokens == 330
        streams = [engine.submit(request) for request in asked]
        assert [list(stream.result(timeout=60).tokens) for stream in streams] == expected
        stats = engine.stats()
        assert stats.preemptions > 0
        assert stats.prefix_tokens + stats.cache_tokens <= 330


def test_a_recurrent_model_is_served_one_request_after_the_other():
    model = tiny_model("mamba")
    asked = requests(4)
    expected = [alone(model.generate, model, request) for request in asked]
    with pytest.warns(UserWarning, match="plain steps"):
        engine = Lookahead().engine(model)
    with engine:
        streams = [engine.submit(request) for request in asked]
        cancelled = engine.submit(asked[0])
        cancelled.cancel()
        assert [list(stream.result(timeout=60).tokens) for stream in streams] == expected
        assert cancelled.result(timeout=60).finish.reason == "cancelled"


def test_without_drafts_rows_join_all_the_same():
    model = tiny_model("llama")
    asked = requests(6)
    expected = [alone(model.generate, model, request) for request in asked]
    with Lookahead(LookaheadConfig(decoding_length=1)).engine(model) as engine:
        assert served(engine, asked) == expected
        assert engine._runner.max_rows == 8
        assert engine.stats().generation.draft_tokens == 0

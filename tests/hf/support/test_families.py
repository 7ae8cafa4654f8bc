"""Every family, greedy and sampling: the text of `generate`; some in every draft mode and state of memory.

`make test` takes a family of each kind, and of the products of families, draft modes and states of memory so
many cases that each two values meet; `make verify` takes all families and whole products.
"""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
import torch

from helpers.memories import STATES, prepared
from helpers.same_text import GREEDY, PLAIN, SAMPLING, assert_same_text
from helpers.samples import sampled
from helpers.tiny_models import KINDS, MAIN_FAMILIES, prompt, tiny_model
from lookahead import DraftMemory, DraftMode, Lookahead, LookaheadConfig
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.budget.policy import BudgetPolicy
from research.families.families import FAMILIES, is_installed

MODES = list(DraftMode)
PROMPTS = [prompt(seed) for seed in range(2)]

IN_FLOAT64 = [
    *MAIN_FAMILIES,
    "gpt_neo",
    "falcon-alibi",
    "mpt",
    "phi3-longrope",
    "llama-dynamic-rope",
    "jamba",
]
IN_EACH_MODE = list(zip(["llama", "gemma3", "llama"], MODES, strict=True))


def installed(family, dtype=torch.float32):
    if not is_installed(family):
        pytest.skip(f"this transformers has no {family}")
    return tiny_model(family, dtype)


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(FAMILIES, KINDS[1::2]))
def test_same_text_in_every_family(family):
    model = installed(family)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    expects_warning = pytest.warns(UserWarning, match="plain steps") if family in PLAIN else nullcontext()
    expected = model.generate(PROMPTS[0], **GREEDY)
    lookahead.memory.warm(expected.tolist())
    with expects_warning:
        actual = lookahead.generate(model, PROMPTS[0], **GREEDY)
    assert actual.tolist() == expected.tolist()
    assert_same_text(model, lookahead, PROMPTS[0], **SAMPLING)
    assert (lookahead.stats.mean_acceptance_length > 1.2) is (family not in PLAIN)


def test_at_min_fifty_families_are_verified_in_trees():
    assert sum(is_installed(family) for family in FAMILIES.keys() - PLAIN) >= 50


@pytest.mark.filterwarnings("ignore:.*plain steps, without drafts")
@pytest.mark.parametrize("family", IN_FLOAT64)
def test_same_text_in_float64(family):
    model = installed(family, torch.float64)
    if family == "jamba":
        model.set_experts_implementation("eager")  # others compute in no more than single precision
    lookahead = prepared(LookaheadConfig(decoding_length=8), "warm", model, PROMPTS[:1], **GREEDY)
    for generation in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, PROMPTS[0], **generation)


@pytest.mark.filterwarnings("ignore:.*plain steps, without drafts")
@pytest.mark.parametrize(
    "family", [*MAIN_FAMILIES, "gpt_neo", "falcon-alibi", "mpt", "opt", "jamba", "qwen3_next"]
)
def test_same_text_behind_padding(family):
    model = installed(family)
    token_ids = torch.nn.functional.pad(PROMPTS[0], (5, 0))
    generation = {**GREEDY, "attention_mask": (torch.arange(token_ids.shape[1])[None] >= 5).long()}
    lookahead = prepared(LookaheadConfig(decoding_length=8), "warm", model, [token_ids], **generation)
    assert_same_text(model, lookahead, token_ids, **generation)


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_same_text_with_holes_in_the_mask(family):
    model = tiny_model(family)
    mask = torch.ones(1, 17, dtype=torch.long)
    mask[:, [0, 1, 2, 5, 9, 10]] = 0  # padding on the left, and hidden tokens
    token_ids = torch.nn.functional.pad(PROMPTS[0], (5, 0))
    generation = {**GREEDY, "attention_mask": mask}
    lookahead = prepared(LookaheadConfig(decoding_length=8), "warm", model, [token_ids], **generation)
    for settings in (GREEDY, SAMPLING):
        assert_same_text(model, lookahead, token_ids, **{**generation, **settings})
    assert lookahead.stats.mean_acceptance_length > 1.3


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "mode", "state"),
    sampled(
        product(MAIN_FAMILIES, MODES, STATES),
        [
            (family, MODES[mode], STATES[(row + mode) % 3])
            for row, family in enumerate(MAIN_FAMILIES)
            for mode in range(3)
        ],
    ),
)
def test_same_text(family, mode, state):
    """The sample has each family in each mode, and each of both with every state of the memory."""
    model = tiny_model(family)
    lookahead = prepared(
        LookaheadConfig(decoding_length=10, draft_mode=mode), state, model, PROMPTS, **GREEDY
    )
    assert_same_text(model, lookahead, PROMPTS[0], **GREEDY)
    assert_same_text(model, lookahead, PROMPTS[1], **SAMPLING)
    assert_same_text(model, lookahead, PROMPTS[1], **GREEDY)
    if state == "warm":
        assert lookahead.stats.mean_acceptance_length > 1.3  # drafts were accepted, so something was tested


@pytest.mark.matrix
@pytest.mark.parametrize(("family", "mode"), sampled(product(["llama", "gemma3"], MODES), IN_EACH_MODE))
def test_same_text_with_a_token_trie(family, mode):
    model = tiny_model(family)
    memory = DraftMemory(store="trie")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, draft_mode=mode), memory=memory)
    for _ in ("cold", "warm"):
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
    assert lookahead.stats.mean_acceptance_length > 1.5


@pytest.mark.matrix
@pytest.mark.parametrize(("family", "mode"), sampled(product(["llama", "gemma3"], MODES), IN_EACH_MODE))
def test_same_text_whatever_sizes_the_budget_chooses(family, mode, monkeypatch):
    model = tiny_model(family)
    random = np.random.default_rng(4)

    def at_random(_policy, _state, probabilities_by_row, **_limits):
        return tuple(int(random.integers(1, 1 + len(row))) for row in probabilities_by_row)

    monkeypatch.setattr(BudgetPolicy, "sizes", at_random)
    lookahead = Lookahead(LookaheadConfig(draft_mode=mode))
    for _ in ("cold", "warm"):
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
    assert lookahead.stats.mean_acceptance_length > 1.2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_same_text_with_and_without_recycled_logits(family, monkeypatch):
    model = tiny_model(family)
    for is_on in (True, False):
        monkeypatch.setattr(BudgetController, "recycles", is_on)
        lookahead = Lookahead(LookaheadConfig(decoding_length=16))
        for token_ids in PROMPTS:
            assert_same_text(model, lookahead, token_ids, **GREEDY)
            assert_same_text(model, lookahead, token_ids, **SAMPLING)
        assert (lookahead.stats.recycle_s > 0) is is_on


@pytest.mark.parametrize("recycle_prompt_tokens", [3, 500])
def test_same_text_with_the_prompts_logits_recycled(recycle_prompt_tokens):
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16, recycle_prompt_tokens=recycle_prompt_tokens))
    for token_ids in PROMPTS:
        for chunks in ({}, {"prefill_chunk_size": 4}):
            assert_same_text(model, lookahead, token_ids, **GREEDY, **chunks)
            assert_same_text(model, lookahead, token_ids, **SAMPLING, **chunks)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_same_text_with_either_attention(implementation):
    model = tiny_model("llama")
    model.set_attn_implementation(implementation)
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, PROMPTS, **GREEDY)
    assert_same_text(model, lookahead, PROMPTS[0], **GREEDY)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("decoding_length", [1, 2, 3, 64])
@pytest.mark.parametrize("branch_length", [1, 5])
def test_any_size_of_draft(decoding_length, branch_length):
    model = tiny_model("llama")
    config = LookaheadConfig(decoding_length=decoding_length, branch_length=branch_length)
    lookahead = prepared(config, "warm", model, PROMPTS, **GREEDY)
    assert_same_text(model, lookahead, PROMPTS[0], **GREEDY)
    assert lookahead.stats.mean_acceptance_length <= min(decoding_length, branch_length + 1)


def test_a_second_run_of_the_same_prompt_is_accepted_almost_whole():
    model = tiny_model("llama")
    long = {**GREEDY, "max_new_tokens": 40}
    lookahead = prepared(LookaheadConfig(decoding_length=16), "warm", model, PROMPTS, **long)
    lookahead.generate(model, PROMPTS[0], **long)
    assert lookahead.last_stats.mean_acceptance_length > 4

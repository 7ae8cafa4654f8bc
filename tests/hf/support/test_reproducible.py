"""`reproducible=True`: the text, and every bit of its logits, whatever was drafted or remembered."""

from itertools import product

import pytest
import torch

from helpers.memories import prepared
from helpers.reproducible import DRAFTED, SAMPLING, WITH_LOGITS, answers, config
from helpers.samples import sampled, thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu.layer_attention import attend_in_layer, team_for
from lookahead.hf.attention import branch_order as ordered_attention
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.support import simd_alignment

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
FAMILIES = ["llama", "qwen2", "gpt2", "mistral", "gemma2", "gemma3", "glm", "olmo2", "modernbert-decoder"]
"""Full attention, learned positions, windows, soft caps; none of them is fused at these sizes or settings."""


def assert_same_bits(model, token_ids, **generation):
    """Return the one answer there is."""
    (first, _), *others = answers(model, token_ids, **generation)
    assert len(first.logits) >= 20 or "eos_token_id" in generation
    for other, _ in others:
        assert torch.equal(other.sequences, first.sequences)
        assert all(torch.equal(*both) for both in zip(other.logits, first.logits, strict=True))
    assert max(lookahead.last_stats.mean_acceptance_length for _, lookahead in others) > 1.3
    return first.sequences


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "dtype"),
    thinned(
        [(family, torch.bfloat16) for family in FAMILIES]
        + [(family, dtype) for family in ("llama", "gpt2", "gemma2") for dtype in DTYPES[1:]],
        3,
    ),
    ids=str,
)
def test_greedy(family, dtype):
    model = tiny_model(family, dtype)
    text = assert_same_bits(model, prompt(0))
    if dtype is torch.float32:
        assert torch.equal(text, model.generate(prompt(0), max_new_tokens=20, do_sample=False))


WIDE: dict[str, dict[str, int]] = {
    "fused-llama": {},
    "fused-mistral": {},
    "fused-qwen2": {},
    "gemma3": {"head_dim": 32},
    "gpt2": {"n_embd": 64, "n_head": 2},
}
"""Heads as wide as the fused step's attention takes them, and the settings that make them so."""


@pytest.fixture
def attended_layers(monkeypatch):
    """The dtypes of the layers that the fused step's attention has done."""
    dtypes = []

    def counted(query, *others, **settings):
        dtypes.append(query.dtype)
        return attend_in_layer(query, *others, **settings)

    monkeypatch.setattr(ordered_attention, "attend_in_layer", counted)
    return dtypes


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "dtype"),
    sampled(
        product(WIDE, [torch.bfloat16, torch.float32]),
        [
            *((family, torch.bfloat16) for family in WIDE),
            *((family, torch.float32) for family in ("fused-mistral", "gpt2")),
        ],
    ),
    ids=str,
)
def test_with_the_attention_of_fused_steps(family, dtype, attended_layers):
    """The sample has each family in bfloat16, and two kinds in float32."""
    model = tiny_model(family, dtype, **WIDE[family])
    text = assert_same_bits(model, prompt(0, 60))
    assert set(attended_layers) == {dtype}
    if dtype is torch.float32:
        assert torch.equal(text, model.generate(prompt(0, 60), max_new_tokens=20, do_sample=False))


def test_batches_with_the_attention_of_fused_steps(attended_layers):
    token_ids, masked = left_padded()
    model = tiny_model("fused-mistral", torch.bfloat16)
    assert_same_bits(model, token_ids, drafted=BATCHED, **masked, **SAMPLING)
    assert attended_layers


def test_soft_caps_and_float16_are_left_to_products_of_one_shape(attended_layers):
    for family, dtype in (("gemma2", torch.bfloat16), ("fused-llama", torch.float16)):
        wide = {"head_dim": 32} if family == "gemma2" else {}
        assert_same_bits(tiny_model(family, dtype, **wide), prompt(0))
    assert not attended_layers


@pytest.mark.matrix
@pytest.mark.parametrize("compiled", sampled(["model", "choice"], ["choice"]))
def test_a_compiled_model_is_left_to_products_of_one_shape(compiled, attended_layers):
    """The sample compiles what chooses; a whole model takes half a minute, in `make verify`."""
    if compiled == "model":
        model = tiny_model("fused-llama", torch.bfloat16)
        model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
        assert_same_bits(model, prompt(0, 60))
        assert not attended_layers
    else:
        states = torch.zeros(1, 1, 16, 64, dtype=torch.bfloat16)
        assert team_for(states, states, states) is not None

        def in_a_layer(states):
            return states + (team_for(states, states, states) is not None)

        assert not torch.compile(in_a_layer, backend="eager", fullgraph=True)(states).any()
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_sampling_with_a_seed(family):
    assert_same_bits(tiny_model(family, torch.bfloat16), prompt(1), **SAMPLING)


@pytest.mark.parametrize("length", [63, 70, 520])
def test_prompts_across_blocks_of_keys(length):
    model = tiny_model("llama", torch.bfloat16, max_position_embeddings=1024)
    assert_same_bits(model, prompt(2, length), drafted=[("empty", 1), ("warm", 16), ("junk", 8)])


def left_padded():
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    mask = (torch.arange(12)[None] >= torch.tensor([0, 5, 2])[:, None]).long()
    return token_ids * mask, {"attention_mask": mask}


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_batches_with_padding(family, sampling):
    token_ids, masked = left_padded()
    assert_same_bits(tiny_model(family, torch.bfloat16), token_ids, drafted=BATCHED, **masked, **sampling)


BATCHED = [("empty", 1), ("warm", 24), ("junk", 48)]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("dtype", "sampling"),
    sampled(product(DTYPES, [{}, SAMPLING]), zip(DTYPES, [SAMPLING, {}, {}], strict=True)),
)
def test_rows_that_advance_and_end_each_on_its_own(dtype, sampling):
    """The sample has each dtype, and both ways of choosing."""
    model = tiny_model("llama", dtype)
    token_ids, masked = left_padded()
    generation = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": [11, 20, 33]}
    generation |= {**masked, **sampling}
    texts, forwards = [], []
    for state, decoding_length in BATCHED:
        torch.manual_seed(11)
        lookahead = prepared(config(decoding_length), state, model, [token_ids], **generation)
        torch.manual_seed(11)
        texts.append(lookahead.generate(model, token_ids, **generation).tolist())
        forwards.append(lookahead.last_stats)
    assert texts[0] == texts[1] == texts[2]
    assert forwards[1].forwards < forwards[1].row_steps, "rows must end at different times"
    assert forwards[1].forwards < forwards[0].forwards


def test_finished_rows_stay_in_the_forward_and_are_never_read():
    model = tiny_model("llama", torch.bfloat16)
    token_ids, masked = left_padded()
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[:2])))
    generation = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": [11, 20, 33]}
    lookahead = Lookahead(config(8))
    lookahead.generate(model, token_ids, **masked, **generation)
    shapes.clear()
    lookahead.generate(model, token_ids, **masked, **generation)
    hook.remove()
    assert lookahead.last_stats.forwards < lookahead.last_stats.row_steps < 3 * lookahead.last_stats.forwards
    assert set(shapes[1:]) == {(3, 16)}


def test_several_sequences_of_a_prompt():
    text = assert_same_bits(
        tiny_model("llama", torch.bfloat16),
        prompt(3),
        drafted=BATCHED,
        num_return_sequences=3,
        **SAMPLING,
    )
    assert len(text) == 3


def test_the_shape_is_a_setting():
    model = tiny_model("qwen2", torch.bfloat16)
    text = [
        answer.sequences.tolist()
        for answer, _ in answers(model, prompt(0), settings={"reproducible_width": 8})
    ]
    assert text == text[:1] * len(DRAFTED)


def test_the_automatic_budget_and_an_attached_model():
    model = tiny_model("llama", torch.bfloat16)
    (expected, _), *_ = answers(model, prompt(0), drafted=[("empty", 1)])
    lookahead = Lookahead(config("auto"))
    with lookahead.attach(model):
        for _ in ("cold", "warm"):
            text = model.generate(prompt(0), max_new_tokens=20, do_sample=False)
            assert torch.equal(text, expected.sequences)
    assert lookahead.stats.requests == 2


def test_a_cache_that_starts_anew():
    model = tiny_model("phi3-longrope")  # its frequencies change at 32 tokens, and the cache starts anew
    text = assert_same_bits(model, prompt(0), max_new_tokens=40)
    assert torch.equal(text, model.generate(prompt(0), max_new_tokens=40, do_sample=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_fused_steps(dtype):
    model = tiny_model("llama", dtype, hidden_size=64, intermediate_size=128, head_dim=32)
    if unsupported_reason(model):
        pytest.skip(f"no fused step here: {unsupported_reason(model)}")
    generation = {"max_new_tokens": 20, "do_sample": False}
    found = []
    for state, decoding_length in DRAFTED:
        settings = LookaheadConfig(decoding_length=decoding_length, reproducible=True)
        lookahead = prepared(settings, state, model, [prompt(0)], **generation)
        found.append(lookahead.generate(model, prompt(0), **WITH_LOGITS, **generation))
    for other in found[1:]:
        assert torch.equal(other.sequences, found[0].sequences)
        assert all(torch.equal(*both) for both in zip(other.logits, found[0].logits, strict=True))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mixtral", "each of its experts multiplies a varying number of tokens"),
        ("bloom", "the order of the text"),
    ],
)
def test_models_that_can_be_had_in_neither_way_take_plain_steps(family, reason):
    model = tiny_model(family, torch.bfloat16)
    lookahead = Lookahead(config(8))
    with pytest.warns(UserWarning, match=f"plain steps, without drafts: .*{reason}") as warned:
        first = lookahead.generate(model, prompt(0), max_new_tokens=20, do_sample=False)
    assert len(warned) == 1
    second = lookahead.generate(model, prompt(0), max_new_tokens=20, do_sample=False)
    assert torch.equal(first, second)
    assert torch.equal(first, model.generate(prompt(0), max_new_tokens=20, do_sample=False))
    assert lookahead.stats.draft_tokens == 0


def test_padding_on_the_right_takes_plain_steps():
    token_ids = torch.cat([prompt(0), prompt(1)])
    mask = torch.ones_like(token_ids)
    mask[0, -2:] = 0
    with pytest.warns(UserWarning, match="plain steps, without drafts: its prompts are padded elsewhere"):
        Lookahead(config(8)).generate(
            tiny_model("llama"), token_ids, attention_mask=mask, max_new_tokens=4, pad_token_id=0
        )


def test_threads_that_cut_vectors_take_plain_steps(monkeypatch):
    monkeypatch.setattr(simd_alignment.torch, "get_num_threads", lambda: 3)
    model = tiny_model("llama", intermediate_size=4864)
    with pytest.warns(UserWarning, match="3 threads would split its 1 x 16 x 4864 .* reproducible_width=18"):
        Lookahead(config(8)).generate(model, prompt(0), max_new_tokens=4)


def test_without_it_bits_depend_on_what_is_drafted():
    """Or else nothing here would show anything."""
    (first, _), (second, _) = answers(
        tiny_model("llama", torch.float32),
        prompt(0),
        drafted=[("empty", 1), ("warm", 16)],
        settings={"reproducible": False},
    )
    assert not all(torch.equal(*both) for both in zip(first.logits, second.logits, strict=True))

"""The Triton kernels of tree attention, in Triton's interpreter, against float64; compiled without a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from helpers.samples import examples, sampled
from helpers.tiny_models import prompt
from helpers.tree_attention_cases import cases, computed, largest_error
from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.attention import tree_kernel

pytestmark = pytest.mark.usefixtures("interpreted_kernels")
FAMILIES = ["llama", "mistral", "gemma2", "gemma3", "gpt_oss", "deepseek_v3", "mixtral", "cohere2"]


@pytest.mark.matrix
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
@settings(max_examples=examples(80, 10))
@given(case=cases())
def test_the_kernel_gives_what_float64_gives(dtype, allowed, case):
    assert largest_error(computed(case, dtype)) <= allowed


def test_bfloat16_is_that_of_its_inputs():
    """The interpreter computes no bfloat16, so its numbers are rounded to it and widened."""
    case = {
        **{"rows": 2, "nodes": 16, "group": 4, "key_heads": 2, "widths": (64, 64), "window": None},
        **{"chunk": None, "softcap": None, "has_sinks": False, "is_padded": True, "splits": 4},
        **{"tables": "none", "seed": 3},
    }
    own = torch.rand

    def rounded(*shape, **given):
        return own(*shape, **given).bfloat16().float()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", rounded)
        assert largest_error(computed(case, torch.float32)) <= 1e-6


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(FAMILIES, ["llama", "gpt_oss"]))
@pytest.mark.usefixtures("with_kernels")
def test_families_say_by_the_kernel_what_generate_says(family, on_device, device, monkeypatch):
    launched, own = [], tree_kernel.tree_attention

    def noted(*arguments, **given):
        launched.append(given)
        return own(*arguments, **given)

    monkeypatch.setattr(tree_kernel, "tree_attention", noted)
    model = on_device(family)
    token_ids = torch.cat([prompt(seed) for seed in range(2)])
    mask = (torch.arange(12)[None] >= torch.tensor([[0], [5]])).long()
    batch = {"attention_mask": mask.to("cuda"), "pad_token_id": 0, "max_new_tokens": 16, "do_sample": False}
    token_ids = (token_ids * mask).to("cuda")
    expected = model.generate(token_ids, **batch).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    for _ in range(3):
        assert lookahead.generate(model, token_ids, **batch).tolist() == expected
    assert launched
    assert device.captures
    kept = next(iter(lookahead._mode._graphs._models.values()))
    assert kept.why_no_kernel == ""
    (slots,) = {step_key[2] for step_key in kept._free.steps}  # one for all lengths
    assert slots % 256 == 0


@pytest.mark.usefixtures("with_kernels")
def test_one_graph_serves_a_long_context_that_grows(on_device, device):
    model = on_device("llama", max_position_embeddings=1024)
    token_ids, generation = prompt(0, 246).to("cuda"), {"max_new_tokens": 24, "do_sample": False}
    expected = model.generate(token_ids, **generation).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    for _ in range(2):
        assert lookahead.generate(model, token_ids, **generation).tolist() == expected
    kept = next(iter(lookahead._mode._graphs._models.values()))
    shapes = [key[:2] for key in kept._free.steps]  # rows and nodes
    assert len(set(shapes)) == len(shapes)


@pytest.mark.usefixtures("with_kernels")
def test_where_the_kernel_fails_torch_attends(on_device, device, monkeypatch):
    def fails(*_arguments, **_given):
        message = "no such architecture"
        raise RuntimeError(message)

    monkeypatch.setattr(tree_kernel, "tree_attention", fails)
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    expected = model.generate(token_ids, max_new_tokens=30, do_sample=False).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    for _ in range(2):
        found = lookahead.generate(model, token_ids, max_new_tokens=30, do_sample=False)
        assert found.tolist() == expected
    assert device.captures
    kept = next(iter(lookahead._mode._graphs._models.values()))
    assert kept.why_no_kernel == "RuntimeError: no such architecture"


LIMITS = {80: 166_912, 90: 232_448, 100: 232_448}
"""By architecture, bytes of shared memory that a program may have."""


@pytest.mark.matrix
@pytest.mark.parametrize("architecture", sampled(LIMITS, [90]))
def test_the_kernels_compile_without_a_card(architecture):
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, script, str(architecture)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    compiled = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(compiled) == 7
    assert all(kernel["cubin"] > 0 for kernel in compiled)
    assert all(kernel["shared"] <= LIMITS[architecture] for kernel in compiled)

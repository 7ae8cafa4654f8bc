"""Bit equality on a CUDA device: attention there, and whole answers with `reproducible=True`."""

import pytest
import torch

from helpers.reproducible import SAMPLING, answers
from helpers.tiny_models import prompt, tiny_model
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.verification import of_fixed_width
from lookahead.hf.support.probe import check_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_forward_pass_of_one_width_has_the_same_bits_whatever_is_drafted(dtype, width):
    model = tiny_model("llama", dtype, hidden_size=256, intermediate_size=512, head_dim=64).cuda()
    with torch.no_grad():
        check_bits(model, attention_layout(model, fresh_cache(model)), of_fixed_width(width))


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_answers_and_their_logits(family, dtype, rows, sampling):
    model = tiny_model(family, dtype).cuda()
    token_ids = torch.cat([prompt(seed) for seed in range(rows)]).cuda()
    drafted = [("empty", 1), ("junk", 8 * rows), ("warm", 16 * rows)]
    (first, _), *others = answers(model, token_ids, drafted=drafted, **sampling)
    for other, _ in others:
        assert torch.equal(other.sequences, first.sequences)
        assert all(torch.equal(*both) for both in zip(other.logits, first.logits, strict=True))
    assert others[-1][1].last_stats.draft_tokens > 0

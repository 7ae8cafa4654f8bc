"""What `lookahead check` says of drafts and text."""

import pytest
import torch

from helpers.tiny_models import tiny_model
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support import reproducibility as asked
from lookahead.hf.support import simd_alignment
from lookahead.hf.support.reproducibility import ReproducibleMethod, reproducibility


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_model_whose_bits_depend_on_drafts_has_one_shape():
    found = reproducibility(tiny_model("gpt2"), 16)
    assert found.usual.mode is VerificationMode.TREE
    assert "tokens' logits depend on what is drafted" in found.dependence
    assert found.why_not_compiled
    assert (found.method, found.width, found.reason) == (ReproducibleMethod.FIXED_WIDTH, 16, "")
    assert found.step_ratio_1 > 0
    assert found.step_ratio_8 > 0


def test_a_fused_model_depends_on_nothing_at_no_cost():
    model = tiny_model("llama", hidden_size=64, intermediate_size=128, head_dim=32)
    if unsupported_reason(model):
        pytest.skip(f"no fused step here: {unsupported_reason(model)}")
    found = reproducibility(model, 16)
    assert (found.method, found.dependence) == (ReproducibleMethod.COMPILED, "")
    assert (found.step_ratio_1, found.step_ratio_8) == (None, None)


@pytest.mark.parametrize(
    ("family", "depends", "reason"),
    [("mixtral", True, "experts"), ("bloom", True, "order of the text"), ("jamba", False, "cannot branch")],
)
def test_what_can_be_had_in_neither_way_is_plain(family, depends, reason):
    found = reproducibility(tiny_model(family), 16)
    assert found.method is ReproducibleMethod.PLAIN
    assert reason in found.reason
    assert bool(found.dependence) is depends
    assert found.step_ratio_1 is None


def test_threads_that_cut_vectors_leave_plain_steps(monkeypatch):
    monkeypatch.setattr(simd_alignment.torch, "get_num_threads", lambda: 3)
    found = asked.reproducibility(tiny_model("gpt2", n_inner=4864), 16)
    assert found.method is ReproducibleMethod.PLAIN
    assert "3 threads would split its 1 x 16 x 4864 activations inside vectors" in found.reason

"""On a CUDA device: the Triton kernels of tree attention against float64."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings

from helpers.tree_attention_cases import cases, computed, largest_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
ALLOWED = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@settings(max_examples=60)
@given(case=cases())
@pytest.mark.parametrize("dtype", ALLOWED)
def test_the_kernel_gives_what_float64_gives(dtype, case):
    assert largest_error(computed(case, dtype, "cuda")) <= ALLOWED[dtype]

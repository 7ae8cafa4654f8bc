"""These tests need vLLM in an environment of its own: `make test-vllm` makes it."""

import os

import pytest


def pytest_collection_modifyitems(items):
    if "LOOKAHEAD_VLLM_ENVIRONMENT" not in os.environ:
        for item in items:
            if "vllm_engine" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="make test-vllm runs these, with vLLM"))

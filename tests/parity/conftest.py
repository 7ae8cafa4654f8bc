"""Parity: everything here compares Lookahead with `model.generate` itself."""

import pytest
import torch
from transformers.utils import logging as transformers_logging


@pytest.fixture(autouse=True, scope="session")
def quiet_library():
    """Keep transformers' own log lines out of the way; Python warnings still fail tests."""
    transformers_logging.set_verbosity_error()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small models gain nothing from threads, and spinning thread pools lose much on a shared machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)

"""Parity: everything here compares Lookahead with `model.generate` itself."""

import pytest
import torch
from transformers.utils import logging as transformers_logging

from lookahead.hf.step_times import StepTimesCache


@pytest.fixture(autouse=True, scope="session")
def quiet_library():
    """Keep transformers' own log lines out of the way; Python warnings still fail tests."""
    transformers_logging.set_verbosity_error()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small models gain nothing from threads, and spinning thread pools lose much on a shared machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def step_times_of_their_own(tmp_path_factory):
    """What is measured here, on one thread, is no measure for the user's own runs."""
    folder = tmp_path_factory.mktemp("step-times")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepTimesCache, "of_user", classmethod(lambda cls: cls(folder)))
        yield


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)

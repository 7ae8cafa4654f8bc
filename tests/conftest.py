"""What all tests share: repeatable examples, one thread, step times of their own, the embedded model."""

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from helpers import tiny_models
from helpers.step_clock import EqualStepClock
from lookahead.hf.machine.cache_folder import user_cache_folder
from lookahead.hf.models.loading import load_model

# Hypothesis draws the same examples every time, so that a red run is red again.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have all tests with the embedded model: it is converted, loaded and served once."""
    for item in items:
        if item.get_closest_marker("model"):
            item.add_marker(pytest.mark.xdist_group("embedded"))


@pytest.fixture(scope="session")
def embedded():
    """The embedded model in float32 and its tokenizer, shared by tests that leave them as they are."""
    return load_model("embedded", "float32", "cpu")


@pytest.fixture(scope="session")
def embedded_bfloat16():
    """The same in bfloat16."""
    return load_model("embedded", "bfloat16", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model and its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    tiny_models.tiny_model("llama").save_pretrained(path)
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True, scope="session")
def quiet_library():
    """Keep transformers' own log lines out of the way; Python warnings still fail tests."""
    transformers_logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def one_thread():
    """Small models gain nothing from threads, and spinning thread pools lose much on a shared machine."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def own_cache_folder(tmp_path_factory):
    """Keep step times of tests out of the user's cache folder, but use its converted embedded model."""
    folder = tmp_path_factory.mktemp("cache")
    users = user_cache_folder()
    if users is not None:
        (users / "embedded").mkdir(parents=True, exist_ok=True)
        (folder / "lookahead").mkdir()
        (folder / "lookahead" / "embedded").symlink_to(users / "embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def equal_step_times():
    """Let every step seem to take as long, so that no draft's size depends on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookahead.decoding.loop.StepClock", EqualStepClock)
        yield


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)

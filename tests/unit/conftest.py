"""What tests of commands and of loading share: a model's folder, and threads that stay as they were."""

import pytest
import torch

import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_models.tiny_model("llama").save_pretrained(path)
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)

"""The hub/ folder: `custom_generate="folder"` generates with Lookahead."""

from pathlib import Path

import pytest

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedGenerationError

FOLDER = Path(__file__).parents[3] / "hub"
GREEDY = {"max_new_tokens": 30, "do_sample": False}
PROMPT = prompt(0)


@pytest.fixture(autouse=True)
def modules_of_their_own(tmp_path, monkeypatch):
    """Transformers copies the folder's code to its module cache: use one of the test's own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))


def generate(model, **kwargs):
    return model.generate(PROMPT, **GREEDY, custom_generate=str(FOLDER), trust_remote_code=True, **kwargs)


def test_same_text_as_generate_with_a_memory_per_model():
    model = tiny_model("llama")
    expected = model.generate(PROMPT, **GREEDY)
    assert generate(model).tolist() == expected.tolist()
    assert generate(model).tolist() == expected.tolist()


def test_the_callers_own_settings_and_memory():
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    expected = model.generate(PROMPT, **GREEDY)
    for _ in ("cold", "warm"):
        received = []
        answer = generate(model, lookahead=lookahead, namespace="tenant", on_stats=received.append)
        assert answer.tolist() == expected.tolist()
        assert received == [lookahead.last_stats]
    assert lookahead.memory.namespaces == {"tenant": 60}
    assert lookahead.last_stats.mean_acceptance_length > 2


def test_an_unsupported_call_is_refused_by_name():
    with pytest.raises(UnsupportedGenerationError, match="num_beams"):
        generate(tiny_model("llama"), num_beams=2)

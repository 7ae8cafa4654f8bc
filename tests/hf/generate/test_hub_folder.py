"""The folder in Hub form: `custom_generate="folder"` generates with Lookahead."""

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
    """The library copies the folder's code to its module cache; not to the user's here."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))


def generate(model, **kwargs):
    return model.generate(PROMPT, **GREEDY, custom_generate=str(FOLDER), trust_remote_code=True, **kwargs)


def test_the_text_of_generate_and_a_memory_that_lives_with_the_model():
    model = tiny_model("llama")
    expected = model.generate(PROMPT, **GREEDY)
    assert generate(model).tolist() == expected.tolist()
    assert generate(model).tolist() == expected.tolist()


def test_settings_and_memory_of_ones_own():
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    expected = model.generate(PROMPT, **GREEDY)
    for _ in ("cold", "warm"):
        assert generate(model, lookahead=lookahead, namespace="tenant").tolist() == expected.tolist()
    assert lookahead.memory.namespaces == {"tenant": 60}
    assert lookahead.last_stats.mean_acceptance_length > 2


def test_what_cannot_be_served_is_refused_by_name():
    with pytest.raises(UnsupportedGenerationError, match="num_beams"):
        generate(tiny_model("llama"), num_beams=2)

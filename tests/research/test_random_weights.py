"""Models of published sizes with random weights."""

import json

import pytest
import torch

from lookahead.errors import ConfigError, NotFoundError, UnsupportedModelError
from research.random_weights import SHAPES, random_model, shape_config

TINY = {
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "layer_types": ["full_attention"] * 3,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
    ],
)
def test_the_shapes_have_as_many_parameters_as_the_published_models(shape, parameters):
    model = random_model(shape, "bfloat16", "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.dtype == torch.bfloat16


def test_every_shape_can_be_cut_and_is_listed_in_the_help(monkeypatch):
    from typer.testing import CliRunner

    from research.profile import app

    monkeypatch.setenv("COLUMNS", "400")
    shown = CliRunner().invoke(app, ["--help"]).output
    for shape in SHAPES:
        assert shape in shown
        assert shape_config(shape, layers=1).num_hidden_layers == 1


def test_the_rotary_base_is_the_shapes_own():
    model = random_model("qwen2.5-0.5b", "bfloat16", "meta", layers=1)
    assert model.config.rope_parameters["rope_theta"] == 1_000_000.0


def test_weights_are_deterministic_and_torchs_generator_is_left_alone(file):
    before = torch.random.get_rng_state()
    first, second = (random_model(str(file), "float32", "cpu") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not first.training


def test_random_weights_give_finite_logits_by_real_positions(file):
    model = random_model(str(file), "bfloat16", "cpu", layers=2)
    assert len(model.model.layers) == 2
    tokens = torch.tensor([[5, 9, 5]])
    with torch.no_grad():
        logits = model(tokens).logits
        elsewhere = model(tokens, position_ids=torch.tensor([[0, 40, 90]])).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert not torch.equal(logits, elsewhere)


def test_a_folder_with_a_config_is_a_shape(file):
    assert random_model(str(file.parent), "float32", "cpu", layers=1).config.hidden_size == 32


@pytest.mark.parametrize("layers", [0, 4])
def test_more_layers_than_the_shape_has_are_refused(file, layers):
    with pytest.raises(ConfigError, match=f"layers={layers} is not allowed.*give 1 to 3"):
        random_model(str(file), "float32", "cpu", layers=layers)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("{oops", ConfigError, "cannot be read"),
        ("[]", ConfigError, "model_type"),
        ("{}", ConfigError, "model_type"),
        ('{"model_type": "unheard-of"}', UnsupportedModelError, "unheard-of"),
        ('{"model_type": "t5"}', UnsupportedModelError, "cannot create a model"),
        ('{"model_type": "llama", "hidden_size": "wide"}', UnsupportedModelError, "hidden_size"),
    ],
)
def test_a_file_that_describes_no_model_is_refused(file, content, error, said):
    file.write_text(content)
    with pytest.raises(error, match=said):
        random_model(str(file), "float32", "cpu")


def test_an_unknown_shape_is_refused_and_the_known_ones_are_named():
    with pytest.raises(NotFoundError, match=r"shape 'llama-9' is unknown; choose llama-2-7b, .*config\.json"):
        random_model("llama-9")

"""Settings: defaults, and errors that name the value, what is allowed and what to do."""

from dataclasses import FrozenInstanceError

import pytest

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.errors import ConfigError, LookaheadError


def test_the_defaults_choose_the_tree_size():
    config = LookaheadConfig()
    assert (config.decoding_length, config.max_nodes(), config.branch_length) == ("auto", 64, 64)
    assert config.draft_mode is DraftMode.HIERARCHICAL


@pytest.mark.parametrize(
    ("decoding_length", "rows", "each"), [("auto", 4, 64), ("auto", 16, 16), (16, 4, 4), (2, 4, 1)]
)
def test_rows_of_a_batch_share_the_nodes_of_a_forward(decoding_length, rows, each):
    assert LookaheadConfig(decoding_length=decoding_length).max_nodes(rows) == each


@pytest.mark.parametrize("mode", ["hierarchical", "parallel", "single", DraftMode.SINGLE])
def test_a_mode_is_given_by_name_or_member(mode):
    assert LookaheadConfig(draft_mode=mode).draft_mode is DraftMode(mode)


@pytest.mark.parametrize(
    "name", ["decoding_length", "branch_length", "recycle_prompt_tokens", "reproducible_width", "max_bytes"]
)
@pytest.mark.parametrize("value", [0, -1, 2**50, 1.5, "16", None, True])
def test_sizes_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}=.* is not allowed; give an integer from"):
        LookaheadConfig(**{name: value})


@pytest.mark.parametrize("name", ["compiled_cpu", "cuda_graphs", "reproducible"])
@pytest.mark.parametrize("value", [0, None, "yes"])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ConfigError, match=f"{name}=.* is not allowed; give True or False"):
        LookaheadConfig(**{name: value})


@pytest.mark.parametrize("mode", ["tree", "", "Hierarchical", None, 3])
def test_an_unknown_mode_is_refused_and_the_known_ones_are_named(mode):
    with pytest.raises(ConfigError, match="'hierarchical', 'parallel', 'single'"):
        LookaheadConfig(draft_mode=mode)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_compiled_cpu_decoder_is_on_or_off(value):
    assert LookaheadConfig().compiled_cpu is True
    assert LookaheadConfig(compiled_cpu=False).compiled_cpu is False
    with pytest.raises(ConfigError, match=r"compiled_cpu=.* is not allowed; give True or False"):
        LookaheadConfig(compiled_cpu=value)


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        LookaheadConfig().decoding_length = 3


def test_a_config_error_is_a_value_error_and_a_lookahead_error():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, LookaheadError)

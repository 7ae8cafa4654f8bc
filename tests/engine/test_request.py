"""What is asked for is checked when it is created, and the error names it."""

import math

import numpy as np
import pytest

from lookahead.engine.request import Request, Sampling
from lookahead.engine.settings import EngineSettings
from lookahead.errors import ConfigError

BAD_SAMPLING = {
    "temperature": [-0.1, math.nan, math.inf, "hot", True],
    "top_k": [-1, 1.5, True],
    "top_p": [0.0, 1.1, -1],
    "min_p": [-0.1, 1.1],
    "seed": [-1, 2**63, 1.5],
    "repetition_penalty": [0, -1.0],
    "presence_penalty": [2.1, -2.1],
    "frequency_penalty": [2.1, math.nan],
    "logit_bias": [{-1: 1.0}, {1: math.inf}, {1: -math.inf}, {"a": 1.0}],
    "bad_words": [[[]], [[-1]], [["a"]]],
    "min_tokens": [-1],
}
BAD_REQUESTS = {
    "prompt_ids": [[], [-1], [2**31], "text", [1.5], [[1], [2]], [[1], [2, 3]]],
    "max_tokens": [0, -1, 1.5],
    "stop_strings": ["stop", [""], [1]],
    "stop_ids": [[-1]],
    "logprobs": [-1, 21],
    "processors": [[1]],
    "namespace": ["", 5],
    "reads": ["name"],
    "predictions": [[[]]],
    "priority": [0.5],
}
BAD_SETTINGS = {
    "max_rows": [0, 1.0],
    "max_step_tokens": [15],
    "max_request_tokens": [1],
    "max_queued": [-1],
    "max_queued_tokens": [0],
    "cache_bytes": [0],
    "prefix_cache": [1],
}


def each(values):
    return [(name, value) for name, bad in values.items() for value in bad]


@pytest.mark.parametrize(("name", "value"), each(BAD_SAMPLING))
def test_sampling_refuses_a_value_that_is_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        Sampling(**{name: value})


@pytest.mark.parametrize(("name", "value"), each(BAD_REQUESTS))
def test_a_request_refuses_a_value_that_is_not_allowed(name, value):
    with pytest.raises(ConfigError, match=name):
        Request(**{"prompt_ids": [1], name: value})


@pytest.mark.parametrize(("name", "value"), each(BAD_SETTINGS))
def test_settings_refuse_a_value_that_is_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        EngineSettings(**{name: value})


def test_defaults_are_greedy():
    assert Request(prompt_ids=[1]).sampling.is_greedy
    assert not Sampling(temperature=0.1).is_greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampling", None),
        ("stop_strings", None),
        ("processors", None),
        ("predictions", 5),
        ("reads", None),
        ("stop_ids", 5),
    ],
)
def test_a_value_of_another_kind_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        Request(**{"prompt_ids": [1], name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("logit_bias", None), ("bad_words", 5), ("temperature", 10**400)]
)
def test_a_sampling_value_of_another_kind_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        Sampling(**{name: value})


def test_what_the_caller_changes_later_changes_no_request():
    ids, bias, stops = [1, 2, 3], {4: 1.0}, np.array([5, 6])
    request = Request(prompt_ids=ids, stop_ids=stops, sampling=Sampling(logit_bias=bias))
    ids.clear()
    bias.clear()
    assert request.prompt_ids == (1, 2, 3)
    assert request.stop_ids == (5, 6)
    assert request.sampling.logit_bias == {4: 1.0}

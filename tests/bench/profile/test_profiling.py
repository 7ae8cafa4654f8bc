"""A profile as a whole: what is measured, refused and left out, and what is made of it."""

import pytest

from helpers.tiny_models import tiny_model
from lookahead.bench.profile.bandwidth import Bandwidth
from lookahead.bench.profile.profiling import (
    ProfilePlan,
    context_prompt,
    describe_steps,
    fitting_contexts,
    profile_model,
)
from lookahead.bench.profile.steps import StepProfile
from lookahead.errors import ConfigError, UnsupportedModelError

POSITIONS = 256


def plan(*contexts, sizes=(1, 8), repeats=2):
    return ProfilePlan(contexts=contexts, sizes=sizes, repeats=repeats)


def test_ratios_are_to_generate_to_one_token_and_to_the_floor():
    steps = StepProfile(generate_s=0.5, step_s={1: 0.4, 8: 0.42, 16: 0.6}, cache_bytes=200)
    described = describe_steps(steps, weights=800, bandwidth=Bandwidth(10_000.0, "sum"))
    assert described["floor"] == {"cache_bytes": 200, "seconds": pytest.approx(0.1)}
    assert described["generate_step"]["over_floor"] == pytest.approx(5.0)
    assert [step["nodes"] for step in described["steps"]] == [1, 8, 16]
    assert [step["over_generate"] for step in described["steps"]] == pytest.approx([0.8, 0.84, 1.2])
    assert [step["over_one"] for step in described["steps"]] == pytest.approx([1.0, 1.05, 1.5])
    assert [step["over_floor"] for step in described["steps"]] == pytest.approx([4.0, 4.2, 6.0])
    assert described["critical_decoding_length"] == {"tokens": 8, "is_at_least": False}


def test_contexts_that_leave_no_room_are_left_out():
    model = tiny_model("llama")
    assert fitting_contexts(model, plan(200, 191, 20, 20)) == ([191, 20], [200])
    assert fitting_contexts(model, plan(200, 20, sizes=(1, 100))) == ([20], [200])


def test_where_no_context_fits_it_is_refused():
    with pytest.raises(ConfigError, match=r"no context of 200, 1000 fits the model's 256 positions"):
        fitting_contexts(tiny_model("llama"), plan(200, 1000))


@pytest.mark.parametrize(
    ("contexts", "settings", "said"),
    [
        ((), {}, "context"),
        ((0,), {}, "context=0"),
        ((10, -5), {}, "context=-5"),
        ((10,), {"sizes": (1, 5000)}, "size=5000"),
        ((10,), {"repeats": 0}, "repeats=0"),
        ((10,), {"repeats": 1001}, "repeats=1001"),
    ],
)
def test_numbers_out_of_range_are_refused(contexts, settings, said):
    with pytest.raises(ConfigError, match=f"{said}.* is not allowed"):
        plan(*contexts, **settings)


def test_a_context_repeats_itself_and_is_the_same_every_time():
    context = context_prompt(100, 50)
    assert context == context_prompt(100, 50)
    assert len(context) == 100
    assert context[:36] == context[64:]
    assert set(context) <= set(range(50))
    assert len(context_prompt(3, 50)) == 3


def test_a_model_of_plain_steps_has_no_sizes_to_profile():
    with pytest.raises(UnsupportedModelError, match=r"JambaForCausalLM is decoded in plain steps \(it has"):
        profile_model(tiny_model("jamba"), plan(20))

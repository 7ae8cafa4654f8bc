"""A model that changes between calls is decoded as it is now."""

from contextlib import ExitStack

import pytest
import torch

from helpers import model_changes
from helpers.model_changes import CHANGES
from helpers.same_text import text_or_error
from helpers.samples import thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig

GREEDY = {"max_new_tokens": 9, "do_sample": False}
SAMPLING = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.8}
OF_ANY_FAMILY = [
    model_changes.class_of_layers_late,
    model_changes.rotary_function,
    model_changes.registered_attention,
    model_changes.mask_function,
    model_changes.scaling_of_one_layer,
    model_changes.layers_shared,
    model_changes.first_layer_deleted,
    model_changes.hook,
]

pytestmark = pytest.mark.filterwarnings("ignore:.*is decoded in")


def texts(generate):
    """Return the texts of greedy search and of sampling."""
    found = []
    for settings in (GREEDY, SAMPLING):
        torch.manual_seed(5)
        found.append(text_or_error(lambda: generate(prompt(0), **settings)))  # noqa: B023  # called at once
    return found


def assert_followed(model, change):
    kept = Lookahead(LookaheadConfig(decoding_length=8))
    before = texts(model.generate)
    assert texts(lambda *given, **settings: kept.generate(model, *given, **settings)) == before
    with ExitStack() as undo:
        change(model, undo)
        changed = texts(model.generate)
        assert texts(lambda *given, **settings: kept.generate(model, *given, **settings)) == changed
        new = Lookahead(LookaheadConfig(decoding_length=8))
        assert texts(lambda *given, **settings: new.generate(model, *given, **settings)) == changed
    assert texts(lambda *given, **settings: kept.generate(model, *given, **settings)) == before


@pytest.mark.matrix
@pytest.mark.parametrize("change", thinned(CHANGES, 3))
def test_a_compiled_model_is_decoded_as_it_is_now(change):
    assert_followed(tiny_model("fused-llama"), change)


@pytest.mark.parametrize("change", OF_ANY_FAMILY)
def test_a_model_of_another_family_is_decoded_as_it_is_now(change):
    assert_followed(tiny_model("gemma3"), change)

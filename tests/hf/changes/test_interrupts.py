"""Ctrl-C at any point of a call leaves the model, the memory and the next text as they were."""

import os
import random
from itertools import product

import pytest
import torch

from helpers.interrupts import Interrupt
from helpers.samples import thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda.capture import NoCapture
from lookahead.hf.compat.fingerprint.watch import Fingerprint
from lookahead.hf.steps import cuda_graphs

INTERRUPTS = int(os.environ.get("LOOKAHEAD_INTERRUPTS", "5"))
"""Per way of decoding; `make fuzz` has more."""
WAYS = {
    "compiled": ("fused-llama", {}),
    "trees": ("llama", {"compiled_cpu": False}),
    "captured": ("llama", {"compiled_cpu": False}),
    "masks of its own": ("gpt_neo", {}),
    "positions from slots": ("mpt", {}),
    "fixed width": ("llama", {"compiled_cpu": False, "reproducible": True}),
    "experts": ("mixtral", {}),
    "plain": ("mamba", {}),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*is decoded in")


def state_of(model):
    """Return what of a model and of torch a call must leave as it was."""
    attributes = [sorted(vars(module)) for module in model.modules()]
    return Fingerprint.of(model), attributes, model.config._attn_implementation, torch.is_grad_enabled()


def assert_harmless(lookahead, model, interrupt, call, expected):
    before = state_of(model)
    interrupt.run(call)
    assert state_of(model) == before
    assert open_requests(lookahead) == 0
    assert lookahead.generate(model, prompt(0), max_new_tokens=12, do_sample=False).tolist() == expected


def open_requests(lookahead):
    return len(lookahead.memory.store._requests)


@pytest.mark.matrix
@pytest.mark.parametrize(("way", "attached"), thinned(product(WAYS, [False, True]), 3))
def test_an_interrupt_leaves_nothing_behind(way, attached, monkeypatch):
    family, settings = WAYS[way]
    if way == "captured":
        monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_: NoCapture())
    model = tiny_model(family)
    expected = model.generate(prompt(0), max_new_tokens=12, do_sample=False).tolist()
    chance = random.Random(f"{way} {attached}")
    lines = None
    for number in range(INTERRUPTS):
        lookahead = Lookahead(LookaheadConfig(decoding_length=8, **settings))
        generation = {"max_new_tokens": 10, "do_sample": number % 2 == 1}
        anywhere = number % 5 == 4

        def call(lookahead=lookahead, generation=generation):
            if attached:
                with lookahead.attach(model):
                    model.generate(prompt(1), **generation)
            else:
                lookahead.generate(model, prompt(1), **generation)

        if lines is None:
            counted = [Interrupt(None), Interrupt(None, anywhere=True)]
            for count in counted:
                count.run(call)
            lines = [count.lines for count in counted]
        at = chance.randrange(1, lines[anywhere])
        assert_harmless(lookahead, model, Interrupt(at, anywhere=anywhere), call, expected)

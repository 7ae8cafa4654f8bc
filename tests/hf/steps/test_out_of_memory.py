"""Memory that runs out within a call: an ordinary error, nothing stays locked, and the next call works."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.fused_steps import fused_steps
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.decoding import kv_arena
from lookahead.hf.steps import step_model

__all__ = ["fused_steps"]
GREEDY = {"max_new_tokens": 30, "do_sample": False}


class Failing:
    """Calls a function until `calls` more were made, then raises as torch does."""

    def __init__(self, function, error):
        self.function, self.error, self.calls = function, error, None

    def __call__(self, *arguments, **settings):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise self.error
        return self.function(*arguments, **settings)


def assert_still_works(lookahead, model, row, expected):
    assert not torch_thread_team()._lock.locked()
    assert not lookahead.memory.store._requests
    with ThreadPoolExecutor(1) as thread:  # a lock that this thread holds would let it in
        found = thread.submit(lookahead.generate, model, row, **GREEDY)
        assert found.result(timeout=120).tolist() == expected


@pytest.mark.parametrize("error", [RuntimeError("not enough memory"), MemoryError("no memory")])
@pytest.mark.parametrize(("calls", "where"), [(0, "before"), (2, "prompt"), (9, "prompt"), (15, "step")])
def test_no_memory_for_the_decoder(calls, where, error, monkeypatch, fused_steps):
    model, row = tiny_model("fused-llama"), prompt(0)
    expected = model.generate(row, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    lookahead.generate(model, row, max_new_tokens=20, do_sample=False)  # the model is known now
    failing = Failing(torch.empty, error)
    monkeypatch.setattr(torch, "empty", failing)
    fused_steps.taken()
    fused_steps.read()
    failing.calls = calls
    with pytest.raises(type(error), match=str(error)):
        lookahead.generate(model, row, **GREEDY)
    failing.calls = None
    assert fused_steps.read() == (0 if where == "before" else row.numel())
    assert (fused_steps.taken() > 0) == (where == "step")
    assert_still_works(lookahead, model, row, expected)


@pytest.mark.parametrize("compiled_cpu", [True, False])
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_no_memory_for_the_cache(calls, compiled_cpu, monkeypatch):
    model, row = tiny_model("fused-llama"), prompt(0)
    expected = model.generate(row, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=8, compiled_cpu=compiled_cpu))
    lookahead.generate(model, row, max_new_tokens=20, do_sample=False)
    failing = Failing(kv_arena.uninitialised, RuntimeError("not enough memory"))
    monkeypatch.setattr(kv_arena, "uninitialised", failing)
    monkeypatch.setattr(step_model, "_FIRST_CAPACITY", 4)  # so that it grows within the call
    monkeypatch.setattr(kv_arena, "GROWTH_SLOTS", 16)
    failing.calls = calls  # keys and values at first, then keys and values of more slots
    with pytest.raises(RuntimeError, match="not enough memory"):
        lookahead.generate(model, row, **GREEDY)
    failing.calls = None
    assert_still_works(lookahead, model, row, expected)

"""Captures on the emulated device: those that fail, and what else goes on meanwhile."""

import threading

import pytest
import torch

from device.emulation.device import Kind, used
from helpers.tiny_models import prompt
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda import capture as capturing
from lookahead.backends.cuda.capture import CudaCapture
from lookahead.backends.cuda.waits import WaitError, refuse_waits

GREEDY = {"max_new_tokens": 40, "do_sample": False}
SAMPLING = {"max_new_tokens": 20, "do_sample": True}
CUDA = torch.device("cuda:0")


def waiting(model):
    """Let a layer of the model read a value from the device."""
    attention = model.model.layers[0].self_attn
    own = type(attention).forward

    class Waits(type(attention)):
        def forward(self, hidden_states, **given):
            assert float(hidden_states.sum()) < float("inf")
            return own(self, hidden_states, **given)

    attention.__class__ = Waits


def in_order(emulated):
    """Whether torch's allocator and generator know of no capture under way."""
    return not emulated.allocator.under_way and not emulated.generator.state[0]


def test_a_layer_that_waits_is_left_as_it_is(on_device, device, emulated):
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    waiting(model)
    expected = model.generate(token_ids, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    with pytest.warns(UserWarning, match="not captured.*waits for the device"):
        assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert device.captures == 0
    assert device.begun == 0  # nothing was left to put in order
    assert in_order(emulated)
    model.generate(token_ids, **SAMPLING)
    torch.cuda.empty_cache()


def test_a_capture_that_fails_leaves_torch_in_order(emulated, device, monkeypatch):
    weights = torch.ones(4, device=CUDA)

    def step():
        return weights.sum().item()

    monkeypatch.setattr(CudaCapture, "_warm_up", lambda *_: None)  # which would find the wait first
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        CudaCapture(CUDA)(step)
    assert device.begun == 1
    assert torch.cuda.current_stream() is emulated.default_stream
    assert in_order(emulated)
    torch.multinomial(torch.ones(1, 4, device=CUDA), 1)
    torch.cuda.empty_cache()


def test_a_capture_after_one_that_failed(emulated, device, monkeypatch):
    weights = torch.ones(4, device=CUDA)
    monkeypatch.setattr(CudaCapture, "_warm_up", lambda *_: None)
    capture = CudaCapture(CUDA)
    with pytest.raises(RuntimeError):
        capture(lambda: weights.sum().item())
    replay = capture(lambda: weights * 2)
    assert replay().tolist() == [2.0] * 4
    weights.add_(1)
    assert replay().tolist() == [4.0] * 4


def test_other_threads_sample_while_one_captures(emulated, device):
    capturing_now, sampled = threading.Event(), threading.Event()
    problems = []

    def samples():
        with used(device):
            capturing_now.wait(10)
            try:
                torch.multinomial(torch.ones(1, 4, device=CUDA), 1)
            except RuntimeError as problem:
                problems.append(problem)
            sampled.set()

    thread = threading.Thread(target=samples)
    thread.start()
    weights = torch.ones(4, device=CUDA)

    def step():
        if device.recording is not None:
            capturing_now.set()
            sampled.wait(10)
        return weights * 2

    CudaCapture(CUDA)(step)
    thread.join()
    assert not problems
    assert emulated.error_mode == "thread_local"


def test_captures_of_two_threads_wait_for_each_other(emulated, device):
    weights, order = torch.ones(4, device=CUDA), []

    def step():
        order.append(threading.get_ident())
        return weights * 2

    def captures():
        with used(device):
            CudaCapture(CUDA)(step)

    threads = [threading.Thread(target=captures) for _ in range(4)]
    with capturing._CAPTURING:  # all of them are there before the first begins
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert device.captures == 4
    assert order[::2] == order[1::2]  # warm-up and capture of one thread, then those of the next


def test_steps_that_are_forgotten_give_up_their_pool(emulated):
    capture, weights = CudaCapture(CUDA), torch.ones(4, device=CUDA)
    capture(lambda: weights * 2)
    first = capture._pool
    capture(lambda: weights * 3)
    assert capture._pool == first
    capture.forget()
    capture(lambda: weights * 4)
    assert capture._pool != first


def test_no_capture_waits_for_all_streams_or_empties_caches(on_device, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("the cache was emptied"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("all streams were waited for"))
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    lookahead.generate(on_device("llama"), prompt(0).to("cuda"), **GREEDY)
    assert device.captures


def test_memory_that_runs_out_in_a_capture_is_tried_again(on_device, device, monkeypatch):
    own, failures = CudaCapture.__call__, []

    def short_of_memory(self, step):
        if not failures:
            failures.append(step)
            raise torch.OutOfMemoryError
        return own(self, step)

    monkeypatch.setattr(CudaCapture, "__call__", short_of_memory)
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    expected = model.generate(token_ids, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    for _ in range(2):
        assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert failures
    assert device.captures


WAITS = {
    "item": lambda tensor: tensor.sum().item(),
    "nonzero": lambda tensor: tensor.nonzero(),
    "a boolean index": lambda tensor: tensor[tensor > 0],
    "an index of the host": lambda tensor: tensor[torch.tensor([0, 1])],
    "to the host": lambda tensor: tensor.cpu(),
    "from the host": lambda tensor: tensor + torch.ones(4).to(tensor.device),
    "multinomial": lambda tensor: torch.multinomial(tensor, 1),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", WAITS)
def test_what_waits_is_refused(what, inference, emulated, device):
    tensor = torch.ones(4, device=CUDA)
    device.clear()
    with torch.inference_mode(inference):
        WAITS[what](tensor)
        assert device.count(Kind.WAIT) > 0
        with pytest.raises(WaitError), refuse_waits():
            WAITS[what](tensor)


def test_what_does_not_wait_is_not_refused(emulated):
    tensor, index = torch.ones(4, device=CUDA), torch.tensor([1, 2], device=CUDA)
    with refuse_waits():
        assert (tensor[index] + 1).shape == (2,)
        tensor[index] = tensor[index] * 2

"""Captures on the emulated device: those that fail, and what else goes on meanwhile."""

import gc
import threading
from contextlib import closing, nullcontext
from types import MethodType

import pytest
import torch

from device.emulation.device import Kind, used
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda import capture as capturing
from lookahead.backends.cuda import graphs
from lookahead.backends.cuda.capture import CudaCapture
from lookahead.backends.cuda.waits import WaitError, refuse_waits
from lookahead.drafting.tree import DraftTree
from lookahead.hf.attention import tree_kernel
from lookahead.hf.cache.bucket_cache import NotStaticError
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps import cuda_graphs, eager
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.hf.support.report import Backend, support_report
from lookahead.hf.support.trial import trial_step_model

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


def test_no_two_memories_share_a_stream(emulated, device):
    weights = torch.ones(4, device=CUDA)
    gc.collect()  # what earlier tests captured on
    captures = [CudaCapture(CUDA) for _ in range(32)]
    replays = [capture(lambda: weights * 2) for capture in captures]
    assert len({capture._side.stream_id for capture in captures}) == 32
    assert device.captures == 32

    def step():
        return weights * 3

    late = CudaCapture(CUDA)
    assert late(step) is step  # all streams are taken: it runs as it is
    assert device.captures == 32
    number = captures[5]._side.stream_id
    del captures[5], replays
    assert late(step)().tolist() == [3.0] * 4
    assert late._side.stream_id == number
    assert device.captures == 33


@pytest.mark.parametrize("kernels", [False, True], ids=["torch's attention", "kernels"])
def test_no_other_thread_switches_the_attention_in_a_captured_step(
    kernels, on_device, emulated, device, monkeypatch, request
):
    if kernels:
        request.getfixturevalue("with_kernels")
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    generation = {"max_new_tokens": 6 if kernels else 20, "do_sample": False}  # the interpreter is slow
    attention = model.model.layers[1].self_attn
    own, at_the_lock, names, others = type(attention).forward, threading.Event(), [], []
    switch, layout = eager.without_cudnn, attention_layout(model, fresh_cache(model))

    def reached(on):
        if threading.current_thread() in others:
            at_the_lock.set()
        return switch(on)

    def eager_step():
        with closing(trial_step_model(model, layout, prompt(0)[0].tolist(), max_nodes=8)) as steps:
            return steps.forward({0: DraftTree.chain([3, 4, 5])})[0].tolist()

    def other_thread():
        with used(device), torch.no_grad():
            try:
                others.append(eager_step())
            except RuntimeError as problem:
                others.append(problem)

    class Looks(type(attention)):
        def forward(self, *given, **named):
            if device.recording is not None and not others:
                before = self.config._attn_implementation
                others.append(threading.Thread(target=other_thread))
                others[0].start()
                assert at_the_lock.wait(30)
                names.append((before, self.config._attn_implementation))
            return own(self, *given, **named)

    attention.__class__ = Looks
    expected, expected_logits = model.generate(token_ids, **generation).tolist(), eager_step()
    lookahead = Lookahead(LookaheadConfig(decoding_length=4))
    monkeypatch.setattr(eager, "without_cudnn", reached)
    for _ in range(2):
        assert lookahead.generate(model, token_ids, **generation).tolist() == expected
    others[0].join()
    assert names[0][0] == names[0][1] != "sdpa"
    assert others[1] == expected_logits


def test_a_plain_forward_pass_of_another_thread_meets_the_kernels_name():
    model = tiny_model("llama")
    expected = model(prompt(0)).logits
    changes = TemporaryChanges()
    with changes, changes:
        tree_kernel.attend_by_kernel(model, changes)
        assert torch.equal(model(prompt(0)).logits, expected)
    model.set_attn_implementation("eager")
    with changes, changes:
        tree_kernel.attend_by_kernel(model, changes)
        with pytest.raises(NotStaticError, match="another mask"):
            model(prompt(0))


@pytest.mark.parametrize("is_captured", [False, True])
def test_models_whose_attention_is_replaced_serve_one_thread_at_a_time(is_captured, on_device):
    profiles = ModelProfiles(LookaheadConfig())
    for attention in ("sdpa", "eager"):
        model = on_device("llama") if is_captured else tiny_model("llama")
        model.set_attn_implementation(attention)
        is_locked = not isinstance(profiles.lock(model), nullcontext)
        assert is_locked is (is_captured and attention == "eager")


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


class Clock:
    """A clock that goes on by what steps take."""

    def __init__(self, patch, eager_s, captured_s):
        self.now = 0.0
        own, replay = eager.EagerRunner.forward, graphs.StaticStep.__call__
        patch.setattr(eager.EagerRunner, "forward", lambda *given: self.after(own(*given), eager_s))
        patch.setattr(graphs.StaticStep, "__call__", lambda *given: self.after(replay(*given), captured_s))
        patch.setattr(cuda_graphs, "perf_counter", lambda: self.now)
        patch.setattr(cuda_graphs, "_MIN_SPEEDUP", 1.0)

    def after(self, found, seconds):
        self.now += seconds
        return found


def test_replays_that_are_faster_are_kept_and_said(on_device, device, monkeypatch):
    Clock(monkeypatch, eager_s=3.0, captured_s=1.0)
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    for _ in range(2):
        lookahead.generate(model, token_ids, **GREEDY)
    assert lookahead.stats.replay_speedup == 3.0
    assert lookahead.last_stats.captured_forwards == lookahead.last_stats.forwards
    assert 0 < lookahead.stats.captured_forwards < lookahead.stats.forwards
    found = support_report(model)
    assert (found.backend, found.replay_speedup) == (Backend.CUDA_GRAPHS, 3.0)
    assert "captured steps agree: 3.00 times as fast as its code" in str(found)
    assert "torch's (the test does without)" in str(found)


def test_replays_that_are_slower_are_left_after_the_first_three(on_device, device, monkeypatch):
    Clock(monkeypatch, eager_s=1.0, captured_s=2.0)
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    expected = model.generate(token_ids, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    with pytest.warns(UserWarning, match="not captured in CUDA graphs: replays take 2 times as long"):
        assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert lookahead.stats.captured_forwards == 2
    assert lookahead.generate(model, token_ids, **GREEDY).tolist() == expected
    assert lookahead.last_stats.captured_forwards == 0
    found = support_report(model)
    assert (found.backend, found.replay_speedup) == (Backend.MODEL, 0.5)
    assert "replays take 2 times as long" in found.why_not_cuda_graphs
    assert "captured steps were tried: 0.50 times as fast" in str(found)


def with_a_hook_of_accelerate(model):
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(model.model.layers[0].mlp, hooks.ModelHook())


def with_a_kernel_of_its_own(model):
    mlp = model.model.layers[0].mlp
    mlp.forward = MethodType(type(mlp).forward, mlp)  # as `kernelize` sets it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_a_hook_of_accelerate, "has a hook of accelerate"),
        (with_a_kernel_of_its_own, "has a forward of its own"),
    ],
)
def test_forwards_of_single_modules_are_not_captured_and_said_once(change, words, on_device, device):
    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    change(model)
    expected = model.generate(token_ids, **GREEDY).tolist()
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    message = f"not captured in CUDA graphs: its model.layers.0.mlp {words}"
    with pytest.warns(UserWarning, match=message) as said:
        texts = [lookahead.generate(model, token_ids, **GREEDY).tolist() for _ in range(2)]
    assert texts == [expected] * 2
    assert len(said) == 1
    assert device.captures == 0
    assert words in support_report(model).why_not_cuda_graphs

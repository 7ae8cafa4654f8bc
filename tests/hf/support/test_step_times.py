"""Measuring forwards by a clock of our own, and a cache that is never in the way."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.simulated_decoding import cpu
from helpers.tiny_models import tiny_model
from lookahead.drafting.budget.step_times import StepTimes, context_bucket
from lookahead.hf.support.step_times import (
    StepTimesCache,
    StepTimesKey,
    measure_step_times,
    sizes_to_measure,
)

TIMES = StepTimes((1, 2, 4), (0.10, 0.11, 0.12))
KEY = StepTimesKey("LlamaForCausalLM", "0123", "bfloat16", "some processor", 2, "sdpa", "2.9.0", 512, 1)


class Machine:
    """A clock, and forwards that move it on."""

    def __init__(self, seconds, disturbances=None):
        self.now = 100.0
        self.seconds = seconds
        self.disturbances = disturbances or {}
        self.forwards: list[int] = []

    def clock(self):
        return self.now

    def forward(self, size):
        self.now += self.seconds(size) * self.disturbances.get(len(self.forwards), 1.0)
        self.forwards.append(size)

    def measure(self, sizes, **settings):
        return measure_step_times(self.forward, sizes, clock=self.clock, **settings)


def test_passes_go_over_all_sizes_one_after_the_other():
    machine = Machine(cpu)
    times = machine.measure((1, 8, 4, 2), passes=3)
    assert machine.forwards == [1, 8, 4, 2] * 3
    assert times.sizes == (1, 2, 4, 8)
    assert times.seconds == pytest.approx([cpu(size) for size in times.sizes])


def test_warming_up_and_hiccups_do_not_count():
    machine = Machine(cpu, disturbances={0: 20, 1: 5, 4: 3, 8: 3})
    times = machine.measure((1, 16, 4), passes=3, limit_seconds=60)
    assert times.seconds == pytest.approx([cpu(1), cpu(4), cpu(16)])


def test_a_model_of_50_ms_takes_less_than_the_limit():
    machine = Machine(lambda size: cpu(size) * 50 / 44)
    machine.measure(sizes_to_measure(64))
    assert machine.now - 100.0 < 1.5


def test_a_slow_model_is_measured_at_both_ends():
    machine = Machine(lambda size: 1.0 + size / 100)
    times = machine.measure(sizes_to_measure(64))
    assert machine.forwards == [1, 64]
    assert times.seconds == pytest.approx((1.01, 1.64))


def test_a_long_warm_up_does_not_stand_for_a_measurement():
    machine = Machine(cpu, disturbances={0: 30})
    times = machine.measure((1, 8), limit_seconds=1.5)
    assert times.seconds == pytest.approx((cpu(1), cpu(8)))


def test_passes_that_would_take_too_long_are_left_out():
    machine = Machine(lambda _size: 0.3)
    machine.measure((1, 4, 2), passes=10, limit_seconds=3.1)
    assert machine.forwards == [1, 4, 2] * 3


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 3, 2)),
        (8, (1, 8, 4, 2)),
        (64, (1, 64, 32, 16, 8, 4, 2)),
        (100, (1, 100, 64, 32, 16, 8, 4, 2)),
    ],
)
def test_sizes_to_measure_begin_with_both_ends(largest, sizes):
    assert sizes_to_measure(largest) == sizes


@pytest.mark.parametrize(
    ("tokens", "bucket"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1024, 1024), (5000, 8192)]
)
def test_contexts_are_told_apart_by_powers_of_two(tokens, bucket):
    assert context_bucket(tokens) == bucket


# The cache


@pytest.fixture
def cache(tmp_path):
    return StepTimesCache(tmp_path / "times")


def only_file(cache):
    (path,) = cache.folder.iterdir()  # nothing half-written beside it
    return path


def test_what_is_kept_is_found_again(cache):
    assert cache.load(KEY) is None
    cache.store(KEY, StepTimes((1,), (0.5,)))
    cache.store(KEY, TIMES)
    assert cache.load(KEY) == TIMES
    assert only_file(cache).stat().st_size < 1000


def test_each_key_has_its_own_times(cache):
    cache.store(KEY, TIMES)
    for change in ({"dtype": "float32"}, {"threads": 4}, {"context_tokens": 1024}, {"attention": "eager"}):
        assert cache.load(replace(KEY, **change)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _entry: "",
        lambda _entry: "{",
        lambda _entry: "[" * 100_000,
        lambda _entry: "[]",
        lambda entry: json.dumps({**entry, "format": 0}),
        lambda entry: json.dumps({**entry, "key": {**entry["key"], "device": "another"}}),
        lambda entry: json.dumps({**entry, "times": None}),
        lambda entry: json.dumps({**entry, "times": {"sizes": [1, 2], "seconds": [0.1, float("nan")]}}),
    ],
)
def test_a_damaged_or_foreign_entry_counts_as_none_and_is_replaced(cache, damage):
    cache.store(KEY, TIMES)
    path = only_file(cache)
    path.write_text(damage(json.loads(path.read_text())))
    assert cache.load(KEY) is None
    cache.store(KEY, TIMES)
    assert cache.load(KEY) == TIMES


def test_bytes_that_are_no_text_count_as_none(cache):
    cache.store(KEY, TIMES)
    only_file(cache).write_bytes(b"\xff\xfe\x00")
    assert cache.load(KEY) is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for cache in (StepTimesCache(blocked / "times"), StepTimesCache(None)):
        cache.store(KEY, TIMES)
        assert cache.load(KEY) is None


def test_the_users_cache_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert StepTimesCache.of_user().folder == tmp_path / "lookahead" / "step-times"


def test_without_a_home_nothing_is_kept(monkeypatch):
    def no_home():
        message = "no home"
        raise RuntimeError(message)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert StepTimesCache.of_user().folder is None


def test_a_key_tells_apart_what_takes_different_time():
    model = tiny_model("llama")
    key = StepTimesKey.of(model, 100)
    assert StepTimesKey.of(tiny_model("llama"), 300) == key
    assert key.threads == torch.get_num_threads()
    others = [
        StepTimesKey.of(model, 600),
        StepTimesKey.of(model, 100, runner_name="ordered 16"),
        StepTimesKey.of(tiny_model("qwen2"), 100),
        StepTimesKey.of(tiny_model("llama", torch.float64), 100),
    ]
    others.append(StepTimesKey.of(model, 100, runner_name="fused"))
    model.config.sliding_window = 9
    others.append(StepTimesKey.of(model, 100))
    assert len({key, *others}) == 1 + len(others)


def test_a_models_name_and_special_tokens_make_no_other_key():
    model = tiny_model("llama")
    key = StepTimesKey.of(model, 100)
    model.config.name_or_path = "somewhere/else"
    model.config.eos_token_id = 7
    assert StepTimesKey.of(model, 100) == key

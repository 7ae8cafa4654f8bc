"""The vLLM proposer, whatever a scheduler does to rows: each answer is remembered once, in its namespace."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.vllm_runner import (
    DRAFT_TOKENS,
    END,
    Simulated,
    SimulatedRunner,
    UnknownRunner,
    sampling,
    stub_vllm,
    vllm_config,
)
from lookahead import DraftMemory
from lookahead.errors import ConfigError, MemoryFileError
from lookahead.integrations.vllm import Proposer

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.integers(1, 30)),
        st.tuples(st.just("step"), st.integers(1, 4), st.none()),
        st.tuples(st.just("preempt"), st.integers(0, 7), st.none()),
        st.tuples(st.just("resume"), st.integers(0, 7), st.none()),
        st.tuples(st.just("abort"), st.integers(0, 7), st.none()),
        st.tuples(st.just("swap"), st.integers(0, 7), st.integers(0, 7)),
    ),
    max_size=40,
)
MAX_ROWS = 8
PROMPTS = ([3, 5], [3, 5], [1, 2, 3] * 12, list(range(1, 23)) * 2)  # two are equal, two are read in chunks


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    stub_vllm(monkeypatch)


def request(number, kind=0, max_tokens=20, namespace="tenant-0", **options):
    params = sampling(max_tokens=max_tokens, lookahead_namespace=namespace, **options)
    return Simulated(f"request-{number}", PROMPTS[kind], params)


class Play:
    """Does some events, and then all steps until each request is finished or aborted."""

    def __init__(self, runner, events):
        self.runner, self.made, self.preempted = runner, [], []
        for kind, one, other in events:
            if kind == "add" or runner.rows or (kind == "resume" and self.preempted):
                getattr(self, kind)(one, other)
        while self.preempted or runner.rows:
            while self.preempted and len(runner.rows) < MAX_ROWS:
                self.resume(0, None)
            self.step(1, None)

    def add(self, kind, max_tokens):
        if len(self.runner.rows) < MAX_ROWS:
            namespace = f"tenant-{kind % 2}"
            self.made.append(request(len(self.made), kind, max_tokens=max_tokens, namespace=namespace))
            self.runner.add(self.made[-1])

    def step(self, steps, _):
        for _ in range(steps):
            if self.runner.rows:
                self.runner.step()
                self.runner.finish_steps()

    def preempt(self, one, _):
        self.preempted.append(self.runner.rows[one % len(self.runner.rows)])
        self.runner.take_away(self.preempted[-1], forget=False)

    def resume(self, one, _):
        if self.preempted and len(self.runner.rows) < MAX_ROWS:
            self.runner.add(self.preempted.pop(one % len(self.preempted)))

    def abort(self, one, _):
        self.runner.take_away(self.runner.rows[one % len(self.runner.rows)], forget=True)

    def swap(self, one, other):
        self.runner.swap(one % len(self.runner.rows), other % len(self.runner.rows))


def remembered(proposer):
    texts = proposer.memory.memory.updates().texts
    return Counter((text.namespace, tuple(text.tokens.tolist())) for text in texts)


def as_answers(requests):
    return Counter(
        (made.params.extra_args["lookahead_namespace"], tuple(made.answer))
        for made in requests
        if made.answer
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, budget=st.sampled_from(["all", "auto"]))
def test_each_answer_is_remembered_once_in_its_namespace(events, budget):
    runner = SimulatedRunner(vllm_config(budget=budget))
    runner.drafter.memory.memory.updates()
    made = Play(runner, events).made
    runner.drafter.memory.close()
    assert remembered(runner.drafter) == as_answers(made)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_without_the_runner_all_tokens_are_remembered_once_in_one_namespace(events):
    runner = UnknownRunner(vllm_config(budget="all"))
    made = Play(runner, events).made
    runner.drafter.memory.close()
    tokens = sum(len(one.answer) for one in made)
    held = runner.drafter.memory.memory.namespaces
    assert set(held) <= {"default"}
    # Nothing tells it where `max_tokens` was: as many tokens as a draft may have come too many.
    assert tokens <= held.get("default", 0) <= tokens + DRAFT_TOKENS * len(made)


def test_without_the_runner_a_word_says_so(caplog):
    UnknownRunner(vllm_config())
    assert "default namespace" in caplog.text


def answered(runner, one):
    runner.add(one)
    while not one.is_finished:
        runner.step()
    runner.finish_steps()
    return one.answer


def test_drafts_are_accepted_and_texts_are_the_models_own():
    alone = SimulatedRunner(vllm_config(budget="all"))
    plain = [
        answered(alone, request(number, kind, max_tokens=40)) for number, kind in enumerate((0, 2, 3, 0))
    ]
    assert max(map(max, alone.draft_sizes)) == DRAFT_TOKENS
    steps = len(alone.draft_sizes)
    assert steps < sum(map(len, plain)) / 1.5
    assert plain[0] == plain[3]


def test_nothing_of_one_tenant_is_drafted_for_another():
    runner = SimulatedRunner(vllm_config(budget="all"))
    first = answered(runner, request(0, max_tokens=20, namespace="a"))

    def sizes(number, namespace):
        begin = len(runner.draft_sizes)
        assert answered(runner, request(number, max_tokens=20, namespace=namespace)) == first
        return runner.draft_sizes[begin:]

    other, same = sizes(1, "b"), sizes(2, "a")
    fresh = SimulatedRunner(vllm_config(budget="all"))
    answered(fresh, request(0, max_tokens=20, namespace="b"))
    assert other == fresh.draft_sizes
    assert len(same) < len(other)


def test_a_salt_is_a_namespace_and_a_name_comes_first():
    runner = SimulatedRunner(vllm_config())
    for number, extra in enumerate(
        ({"lookahead_cache_salt": "s"}, {"lookahead_cache_salt": "s", "lookahead_namespace": "named"}, {})
    ):
        answered(runner, Simulated(f"request-{number}", [3, 5], sampling(max_tokens=4 + number, **extra)))
    assert runner.drafter.memory.memory.namespaces == {"cache_salt:s": 4, "named": 5, "default": 6}


def test_what_must_not_be_remembered_is_not():
    runner = SimulatedRunner(vllm_config())
    answered(runner, request(0, lookahead_remember=False))
    answered(runner, request(1, namespace=""))  # no namespace can have this name
    answered(runner, request(2, namespace=7))
    assert runner.drafter.memory.memory.namespaces == {}
    forgetful = SimulatedRunner(vllm_config(remember=False))
    answered(forgetful, request(0))
    assert forgetful.drafter.memory.memory.namespaces == {}


def test_an_answer_ends_where_the_request_says():
    runner = SimulatedRunner(vllm_config(budget="all"))
    for number, options in enumerate(({}, {"ignore_eos": True}, {"stop_token_ids": [2]})):
        one = request(number, 2, max_tokens=40, namespace=str(number), **options)
        answered(runner, one)
        assert runner.drafter.memory.memory.namespaces[str(number)] == len(one.answer)
        assert one.answer[-1] == END or len(one.answer) == 40 or one.answer[-1] == 2


def test_tokens_that_are_none_end_drafting_for_that_request_alone():
    runner = SimulatedRunner(vllm_config(budget="all"))
    fine = request(1, 2, max_tokens=30)
    broken = Simulated("broken", [3, -5], sampling(max_tokens=30))
    runner.add(broken)
    runner.add(fine)
    while not fine.is_finished:
        runner.step()
        runner.finish_steps()
    assert runner.drafter.memory.memory.namespaces == {"tenant-0": len(fine.answer)}


def test_steps_without_a_call_are_learned_later():
    runner = SimulatedRunner(vllm_config(budget="all"))
    one = request(0, 2, max_tokens=30)
    runner.add(one)
    propose = runner.drafter.propose
    for number in range(8):  # where some row is near the end of its context, vLLM does not ask
        runner.drafter.propose = propose if number % 3 else (lambda sampled, *_, **__: [[] for _ in sampled])
        runner.step()
    assert not one.is_finished
    while not one.is_finished:
        runner.step()
    runner.drafter.memory.close()
    assert runner.drafter.memory.memory.namespaces == {"tenant-0": len(one.answer)}


def test_only_the_rank_whose_drafts_count_has_a_memory(monkeypatch, tmp_path):
    stub_vllm(monkeypatch, tp_rank=1)
    file = tmp_path / "memory.safetensors"
    runner = SimulatedRunner(vllm_config(memory_file=str(file)))
    assert runner.drafter.memory is None
    answered(runner, request(0))
    assert not file.exists()
    assert {size for sizes in runner.draft_sizes for size in sizes} == {0}


def test_each_data_parallel_engine_has_a_file_of_its_own(tmp_path):
    for rank in range(2):
        config = vllm_config(memory_file=str(tmp_path / "memory.safetensors"))
        config.parallel_config.data_parallel_size, config.parallel_config.data_parallel_rank = 2, rank
        runner = SimulatedRunner(config)
        answered(runner, request(0))
        runner.drafter.memory.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory-1.safetensors", "memory.safetensors"]


def test_the_file_is_loaded_and_saved_in_the_background(tmp_path):
    file = tmp_path / "memory.safetensors"
    runner = SimulatedRunner(vllm_config(memory_file=str(file), save_every_s=0.02))
    first = answered(runner, request(0))
    for _ in range(1000):
        if file.exists() and DraftMemory.load(file).namespaces:
            break
        time.sleep(0.01)
    assert DraftMemory.load(file).namespaces == {"tenant-0": len(first)}
    runner.drafter.memory.close()
    again = SimulatedRunner(vllm_config(memory_file=str(file), budget="all"))
    assert answered(again, request(0)) == first
    assert len(again.draft_sizes) < len(runner.draft_sizes)
    again.drafter.memory.close()
    assert DraftMemory.load(file).namespaces == {"tenant-0": 2 * len(first)}


def test_two_engines_exchange_through_a_folder(tmp_path):
    runners = [
        SimulatedRunner(vllm_config(exchange_folder=str(tmp_path), exchange_every_s=0.02)) for _ in range(2)
    ]
    first = answered(runners[0], request(0))
    other = runners[1].drafter.memory.memory
    end = time.monotonic() + 30
    while not other.namespaces:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert other.namespaces == {"tenant-0": len(first)}
    for runner in runners:
        runner.drafter.memory.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_byts": 1}, "max_byts"),
        ({"max_bytes": 7}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"save_every_s": 0}, "save_every_s"),
        ({"exchange_every_s": "1"}, "exchange_every_s"),
        ({"memory_file": 5}, "memory_file"),
        ({"memory_file": "no/such/folder/file"}, "memory_file"),
        ({"exchange_folder": "no/such/folder"}, "exchange folder"),
        ({"default_namespace": ""}, "namespace"),
        ({"remember": "no"}, "remember"),
        ({"budget": 8}, "budget"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        Proposer(vllm_config(**options))


def test_settings_that_are_no_object_are_refused():
    config = vllm_config()
    config.additional_config = {"lookahead": ["memory_file"]}
    with pytest.raises(ConfigError, match="object"):
        Proposer(config)


def test_a_file_of_another_vocabulary_is_refused(tmp_path):
    memory = DraftMemory()
    memory.bind(vocabulary_size=99)
    memory.warm([[1, 2]])
    memory.save(tmp_path / "memory.safetensors")
    with pytest.raises(MemoryFileError, match="vocabulary"):
        Proposer(vllm_config(memory_file=str(tmp_path / "memory.safetensors")))


def test_the_scheduler_that_tells_salts_is_set_unless_another_is():
    config = vllm_config()
    Proposer(config)
    assert config.scheduler_config.scheduler_cls == "lookahead.integrations.vllm.SaltScheduler"
    config.scheduler_config.scheduler_cls = "mine.Scheduler"
    Proposer(config)
    assert config.scheduler_config.scheduler_cls == "mine.Scheduler"


def test_the_budget_learns_from_the_steps_of_the_runner():
    runner = SimulatedRunner(vllm_config())
    answered(runner, request(0, 2, max_tokens=30))
    assert runner.drafter.budget.times
    assert min(runner.drafter.budget.times.coefficients) >= 0
    assert np.isfinite(runner.drafter.budget.tokens_per_second(1))

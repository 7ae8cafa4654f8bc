"""Timing verified forwards beside `generate`'s steps, by a clock of our own."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead.bench.profile import steps as step_profile
from lookahead.bench.profile.steps import (
    CriticalLength,
    critical_length,
    interleaved_medians,
    profile_steps,
    random_tree,
)
from lookahead.hf.steps.library_steps import LibraryStepModel
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import CHAIN, TREE


@pytest.mark.parametrize(
    ("step_s", "expected"),
    [
        ({1: 1.0, 8: 1.05, 16: 1.2, 32: 2.0}, CriticalLength(10, is_at_least=False)),  # 8 + 8 * 0.05 / 0.15
        ({1: 1.0, 8: 1.1, 16: 1.3}, CriticalLength(8, is_at_least=False)),
        ({1: 1.0, 8: 1.01, 16: 1.09}, CriticalLength(16, is_at_least=True)),
        ({1: 1.0, 2: 5.0}, CriticalLength(1, is_at_least=False)),
        ({1: 1.0, 8: 0.5, 16: 1.7}, CriticalLength(12, is_at_least=False)),  # T(1) may be the slower one
        (
            {1: 1.0, 8: 1.3, 16: 1.0},
            CriticalLength(3, is_at_least=False),
        ),  # the first that costs more decides
        ({1: 1.0}, CriticalLength(1, is_at_least=True)),
    ],
)
def test_the_critical_length_is_where_a_forward_costs_a_tenth_more(step_s, expected):
    assert critical_length(step_s) == expected


class Machine:
    """A clock, and actions that move it on."""

    def __init__(self):
        self.now = 50.0
        self.done = []

    def clock(self):
        return self.now

    def taking(self, name, *seconds):
        left = list(seconds)

        def action():
            self.done.append(name)
            self.now += left.pop(0)

        return action


def test_actions_take_turns_and_the_median_of_measured_rounds_counts():
    machine = Machine()
    actions = {"a": machine.taking("a", 90, 1, 7, 2), "b": machine.taking("b", 80, 5, 5, 60)}

    def before_round():
        machine.done.append("-")
        machine.now += 1000

    medians = interleaved_medians(actions, 3, unmeasured=1, before_round=before_round, clock=machine.clock)
    assert medians == {"a": 2, "b": 5}
    assert "".join(machine.done) == "-ab" * 4


def test_random_trees_are_the_same_every_time_and_have_branches():
    tree = random_tree(32, vocabulary=64)
    assert tree.token_ids.tolist() == random_tree(32, vocabulary=64).token_ids.tolist()
    assert len(tree) == 32
    assert tree.token_ids.max() < 64
    assert tree.parents.tolist() != list(range(-1, 31))
    chain = random_tree(32, vocabulary=64, branches=False)
    assert chain.parents.tolist() == list(range(-1, 31))


def simulated_seconds(monkeypatch, machine):
    """Have forwards take time by the machine's clock: ours as many seconds as nodes, the library's 3."""
    ours, librarys = TransformersStepModel.forward, LibraryStepModel.forward

    def our_forward(self, drafts):
        machine.now += len(drafts[0])
        return ours(self, drafts)

    def library_forward(self, drafts):
        machine.now += 3
        machine.done.append(self._ids.shape[1])
        return librarys(self, drafts)

    monkeypatch.setattr(TransformersStepModel, "forward", our_forward)
    monkeypatch.setattr(LibraryStepModel, "forward", library_forward)


@pytest.mark.parametrize("verification", [TREE, CHAIN])
def test_each_size_is_measured_and_the_plain_step_always(monkeypatch, verification):
    machine = Machine()
    simulated_seconds(monkeypatch, machine)
    found = profile_steps(
        tiny_model("llama"),
        prompt(0, 12)[0].tolist(),
        sizes=[4, 2],
        repeats=2,
        verification=verification,
        clock=machine.clock,
    )
    assert found.generate_s == 3
    assert found.step_s == {1: 1, 2: 2, 4: 4}
    assert found.cache_bytes == 2 * 2 * 2 * 8 * 12 * 4


def test_the_librarys_context_stays_about_as_long_as_it_was(monkeypatch):
    machine = Machine()
    simulated_seconds(monkeypatch, machine)
    profile_steps(
        tiny_model("llama"),
        prompt(0, 60)[0].tolist(),
        sizes=[1],
        repeats=6,
        verification=TREE,
        clock=machine.clock,
    )
    assert machine.done == [60, 61, 62] * 2 + [60, 61]


def test_our_context_stays_as_long_as_it_was(monkeypatch):
    made = []
    real = step_profile.trial_step_model

    def remembered(*arguments, **settings):
        made.append(real(*arguments, **settings))
        return made[-1]

    monkeypatch.setattr(step_profile, "trial_step_model", remembered)
    before = torch.random.get_rng_state()
    profile_steps(tiny_model("llama"), prompt(0, 12)[0].tolist(), sizes=[8], repeats=3, verification=TREE)
    assert made[0].cache.get_seq_length() == 12
    assert torch.equal(torch.random.get_rng_state(), before)

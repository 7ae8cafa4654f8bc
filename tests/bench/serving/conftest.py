"""A clock that moves only when it is told to, and a way of serving by it."""

import pytest

from lookahead.bench.serving.measuring import Passes, Round, serve_in_turn
from lookahead.bench.serving.methods import ServingMethod


class SimulatedTimer:
    def __init__(self):
        self.time = 100.0
        self.slept = []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


class Scripted(ServingMethod):
    """Answers each request with its prompt, a token in so many seconds.

    `fails_at` is the number of a call that fails; `changes` the last token of each answer.
    """

    def __init__(self, name, seconds, *, fails_at=None, changes=False):
        self.name = name
        self.seconds, self.fails_at, self.changes = seconds, fails_at, changes
        self.calls = []

    def serve(self, load):
        self.calls.append(load)
        if self.fails_at == len(self.calls) - 1:
            message = "no such attention"
            raise NotImplementedError(message)
        recorder = load.begin()

        def answer(indices):
            (index,) = indices
            prompt = list(load.prompts[index])
            for token in [*prompt[:-1], prompt[-1] + self.changes]:
                load.timer.sleep(self.seconds)
                recorder.put(index, [token])

        serve_in_turn(recorder, answer)
        return Round(recorder.timelines, Passes(sum(map(len, load.prompts))))


@pytest.fixture
def timer():
    return SimulatedTimer()


@pytest.fixture
def scripted():
    return Scripted

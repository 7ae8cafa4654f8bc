"""The host's part of captured steps, with replays that return prepared results."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead.backends.cuda.graphs import Verified
from lookahead.bench.profile.generation import PARTS, never_ending
from lookahead.bench.profile.host import PreparedReplays, profile_host
from lookahead.hf.steps import cuda_graphs
from lookahead.hf.steps.eager import EagerRunner

PROMPT = prompt(0, 24)[0].tolist()


def test_a_replay_notes_results_and_then_returns_them():
    buffer, readings = torch.zeros(1, dtype=torch.int32), iter(range(100))
    replays = PreparedReplays(lambda: next(readings))

    def step():
        buffer.add_(1)
        return Verified(torch.zeros(1), buffer)

    replay = replays(step)
    replays.begin(are_prepared=False)
    assert [int(replay().summary) for _ in range(2)] == [1, 2]
    replays.begin(are_prepared=True)
    assert [int(replay().summary) for _ in range(3)] == [1, 2, 1]
    assert int(buffer) == 2
    replays.begin(are_prepared=False)
    assert int(replay().summary) == 3
    assert (replays.replays, replays.seconds) == (6, 6)


def test_the_model_computes_nothing_in_a_step_that_is_timed(monkeypatch):
    model, forwards = tiny_model("llama"), []
    run_of, eager, begin = cuda_graphs.run_of, EagerRunner.forward, PreparedReplays.begin

    def counted(run):
        return lambda *given: forwards.append(1) or run(*given)

    monkeypatch.setattr(cuda_graphs, "run_of", lambda *given, **named: counted(run_of(*given, **named)))
    monkeypatch.setattr(EagerRunner, "forward", counted(eager))
    monkeypatch.setattr(
        PreparedReplays, "begin", lambda self, **given: forwards.clear() or begin(self, **given)
    )
    with never_ending(model):
        found = profile_host(model, PROMPT, new_tokens=64)
    assert found["steps"] > 15
    assert 2 < found["tokens_per_step"] < 8
    assert found["nodes_per_step"] > 12
    assert set(found["seconds_per_part"]) == set(PARTS)
    assert found["seconds"] > 0
    assert len(forwards) < 4  # in the last answer; its last steps are of other shapes


@pytest.mark.parametrize("family", ["bloom", "llama4_text"])
def test_where_steps_are_not_captured_it_is_said(family):
    model = tiny_model(family)
    with never_ending(model):
        found = profile_host(model, PROMPT, new_tokens=16)
    assert found["steps"] == 0
    assert "captured" in found["reason"]

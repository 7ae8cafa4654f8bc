"""The loop over a model that counts: no weights, every step visible."""

import numpy as np
import pytest
import torch

from lookahead.decoding.loop import StepClock, decode, step
from lookahead.decoding.sampling.choice import argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree
from lookahead.stats import GenerationStats

VOCABULARY = 50


class CountingModel:
    """After token t comes t + 1. Remembers what its cache holds."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.cache: list[int] = []
        self.kept: list[list[int]] = []
        self.levels = 99

    def _logits(self, tokens):
        return torch.nn.functional.one_hot(torch.as_tensor(tokens).long() + 1, VOCABULARY).float()

    def prefill(self):
        self.cache.append(self.first)
        return self._logits([self.first - 1, self.first])[None]

    def are_logits_current(self):
        return True

    def max_draft_depth(self, _row):
        return self.levels

    def forward(self, drafts):
        self.tree = drafts[0]
        return {0: self._logits(self.tree.token_ids)}

    def keep(self, paths):
        self.kept.append(paths[0])
        self.cache += [int(self.tree.token_ids[node]) for node in paths[0]]


class ChainDrafter:
    """Drafts a chain of the next tokens, right up to the `wrong_from`-th."""

    def __init__(self, levels: int, wrong_from: int) -> None:
        self.levels, self.wrong_from = levels, wrong_from
        self.learned: list[int] = []
        self.asked: list[int] = []
        self.events: list[tuple] = []

    recycles = True

    def recycle_prompt(self, _row, successors):
        self.events.append(("recycle prompt", successors[:, 0].tolist()))

    def recycle(self, _row, draft, path, successors):
        self.events.append(("recycle", draft.token_ids.tolist(), path, successors[:, 0].tolist()))

    def adapt(self, sizes, tokens, seconds):
        assert set(seconds) == {"draft_s", "model_s", "cache_s", "verify_s", "recycle_s"}
        assert all(value >= 0 for value in seconds.values())
        self.events.append(("adapt", sizes, tokens))

    def propose(self, max_depths, **_limits):
        self.asked.append(max_depths[0])
        tokens = self.learned[-1] + np.arange(1 + min(self.levels, max_depths[0]))
        tokens[1 + self.wrong_from :] += 7
        return {0: DraftTree.chain(tokens)}

    def learn(self, _row, tokens):
        self.learned += tokens

    def remove(self, row):
        self.events.append(("remove", row))


def run(drafter, new_tokens, max_draft_depth=99):
    model = CountingModel(first=3)
    model.levels = max_draft_depth
    state = GenerationState(
        torch.tensor([[3]]),
        max_length=1 + new_tokens,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: torch.zeros(ids.shape[0], dtype=torch.bool),
        choose=argmax,
    )
    stats = GenerationStats()
    decode(model, drafter, [state], stats)
    return model, state.token_ids[0].tolist(), stats


def test_drafts_that_are_right_are_kept_up_to_the_first_wrong_one():
    drafter = ChainDrafter(levels=4, wrong_from=2)
    model, tokens, stats = run(drafter, new_tokens=10)
    assert tokens == list(range(3, 14))
    assert model.kept == [[0, 1, 2]] * 3
    assert (stats.row_steps, stats.tokens, stats.requests) == (3, 10, 1)
    assert stats.mean_acceptance_length == 3.0
    assert (stats.draft_tokens, stats.accepted_tokens) == (4 + 4 + 2, 6)


def test_the_cache_holds_all_but_the_last_token():
    model, tokens, _ = run(ChainDrafter(levels=3, wrong_from=9), new_tokens=9)
    assert model.cache == tokens[:-1]


def test_drafts_never_reach_past_the_length_limit():
    drafter = ChainDrafter(levels=9, wrong_from=99)
    _, tokens, _ = run(drafter, new_tokens=7)
    assert len(tokens) == 8
    assert drafter.asked == [5]
    assert drafter.learned == tokens[1:]


def test_drafts_never_reach_past_the_models_positions():
    drafter = ChainDrafter(levels=9, wrong_from=99)
    run(drafter, new_tokens=7, max_draft_depth=2)
    assert drafter.asked == [2, 2]


def test_one_token_needs_no_step():
    _, tokens, stats = run(ChainDrafter(levels=3, wrong_from=9), new_tokens=1)
    assert tokens == [3, 4]
    assert stats.row_steps == 0
    assert stats.mean_acceptance_length == 1.0


def test_the_drafter_gets_what_each_step_did_and_the_models_argmax():
    drafter = ChainDrafter(levels=2, wrong_from=1)
    run(drafter, new_tokens=5)
    assert drafter.events == [
        ("recycle prompt", [3, 4]),
        ("recycle", [4, 5, 13], [0, 1], [5, 6, 14]),
        ("adapt", {0: 3}, 2),
        ("recycle", [6, 7], [0, 1], [7, 8]),
        ("adapt", {0: 2}, 2),
    ]


def test_nothing_is_measured_or_recycled_for_an_answer_of_one_token():
    drafter = ChainDrafter(levels=2, wrong_from=1)
    run(drafter, new_tokens=1)
    assert drafter.events == []


class CountingRows:
    """A batch of counting models that records which rows were in each forward pass."""

    def __init__(self, firsts):
        self.firsts = firsts
        self.rows: list[list[int]] = []
        self.kept = [0] * len(firsts)
        self.removed: list[int] = []

    def _logits(self, tokens):
        return torch.nn.functional.one_hot(torch.as_tensor(tokens).long() + 1, VOCABULARY).float()

    def prefill(self):
        return torch.stack([self._logits([first]) for first in self.firsts])

    def are_logits_current(self):
        return True

    def max_draft_depth(self, _row):
        return 99

    def forward(self, drafts):
        self.rows.append(sorted(drafts))
        return {row: self._logits(draft.token_ids) for row, draft in drafts.items()}

    def keep(self, paths):
        assert sorted(paths) == self.rows[-1]
        for row, path in paths.items():
            self.kept[row] += len(path)

    def remove(self, row):
        self.removed.append(row)


class ChainDrafters:
    """Drafts right chains of each row's own number of levels."""

    recycles = False

    def __init__(self, levels):
        self.levels = levels
        self.last = [0] * len(levels)
        self.adapted: list[tuple[dict[int, int], int]] = []
        self.removed: list[int] = []

    def propose(self, max_depths, **_limits):
        return {
            row: DraftTree.chain(self.last[row] + np.arange(1 + min(self.levels[row], max_depth)))
            for row, max_depth in max_depths.items()
        }

    def learn(self, row, tokens):
        self.last[row] = tokens[-1]

    def adapt(self, sizes, tokens, seconds):
        assert seconds["model_s"] >= 0
        self.adapted.append((sizes, tokens))

    def remove(self, row):
        self.removed.append(row)


def run_rows(states, levels):
    model, drafters, stats = CountingRows([3] * len(levels)), ChainDrafters(levels), GenerationStats()
    decode(model, drafters, states, stats)
    return model, drafters, stats


def state_of(prompts, rows=None, pad=None, stop_at=8):
    return GenerationState(
        torch.tensor(prompts),
        rows=rows,
        max_length=40,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: ids[:, -1] == stop_at + (ids[:, 0] - 3) * 5,
        choose=argmax,
        pad_token_id=pad,
    )


def test_rows_on_their_own_advance_as_far_as_they_are_accepted_and_leave_when_they_end():
    states = [state_of([[3]], (0,)), state_of([[3]], (1,), stop_at=14)]
    model, drafters, stats = run_rows(states, [3, 1])
    assert [state.token_ids[0].tolist() for state in states] == [
        list(range(3, 9)),
        list(range(3, 15)),
    ]
    assert model.rows == [[0, 1]] + [[1]] * 4
    assert drafters.adapted == [({0: 4, 1: 2}, 6), *[({1: 2}, 2)] * 4]
    assert (stats.requests, stats.tokens, stats.row_steps, stats.forwards) == (2, 16, 6, 5)


def test_rows_together_wait_for_each_other_and_are_padded_when_they_end():
    together = state_of([[3], [4]], pad=0)
    model, _, stats = run_rows([together], [3, 1])
    # The second row's first token is 4 as well: both count from 3.
    assert together.token_ids.tolist() == [[3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0], [4, *range(4, 14)]]
    assert set(map(tuple, model.rows)) == {(0, 1)}
    assert (stats.requests, stats.tokens) == (2, 15)


def test_rows_that_finish_are_removed_once_while_others_go_on():
    ends = [8, 14, 4, 14]  # the third row ends with its first token; the second and the fourth end together
    states = [state_of([[3]], (row,), stop_at=end) for row, end in enumerate(ends)]
    model, drafters, _ = run_rows(states, [3, 1, 1, 1])
    assert model.rows == [[0, 1, 3]] + [[1, 3]] * 4
    assert model.removed == drafters.removed == [2, 0]  # where none goes on, the call ends


def test_all_rows_of_a_state_are_removed_together():
    together = state_of([[3], [3]], (0, 2), stop_at=8)
    alone = state_of([[3]], (1,), stop_at=14)
    model, drafters, _ = run_rows([together, alone], [3, 1, 2])
    assert model.removed == drafters.removed == [0, 2]
    assert model.rows[-1] == [1]
    assert together.token_ids.tolist() == [list(range(3, 9))] * 2


@pytest.mark.parametrize("stepped", [[0, 2], [2], [2, 0, 1], [1]])
def test_a_step_leaves_rows_alone_whose_states_are_not_in_it(stepped):
    model, drafters, stats = CountingRows([3, 3, 3]), ChainDrafters([3, 1, 2]), GenerationStats()
    states = [state_of([[3]], (row,), stop_at=30) for row in range(3)]
    for row, state in enumerate(states):
        drafters.learn(row, state.emit(torch.nn.functional.one_hot(torch.tensor([4]), VOCABULARY).float()))
    accepted = step(model, drafters, [states[row] for row in stepped], stats)
    assert sorted(accepted) == sorted(stepped)
    assert model.rows == [sorted(stepped)]
    new_tokens = [(1 + depth) * (row in stepped) for row, depth in enumerate(drafters.levels)]
    assert [state.token_ids[0].tolist() for state in states] == [
        [3, *range(4, 5 + new)] for new in new_tokens
    ]
    assert drafters.last == [4 + new for new in new_tokens]
    assert model.kept == new_tokens
    assert drafters.adapted == [({row: new_tokens[row] for row in stepped}, sum(new_tokens))]
    assert (stats.forwards, stats.row_steps, stats.tokens) == (1, len(stepped), sum(new_tokens))
    assert not model.removed
    assert not drafters.removed


def test_a_step_passes_finished_states_over_and_without_any_other_does_nothing():
    model, drafters, stats = CountingRows([3, 3]), ChainDrafters([2, 2]), GenerationStats()
    ended, going_on = (state_of([[3]], (row,), stop_at=end) for row, end in enumerate([4, 30]))
    for row, state in enumerate((ended, going_on)):
        drafters.learn(row, state.emit(torch.nn.functional.one_hot(torch.tensor([4]), VOCABULARY).float()))
    assert ended.finished
    assert list(step(model, drafters, [ended, going_on], stats)) == [1]
    assert ended.token_ids.tolist() == [[3, 4]]
    assert step(model, drafters, [ended], stats) == {}
    assert step(model, drafters, [], stats) == {}
    assert model.rows == [[1]]
    assert stats.forwards == 1


def test_seconds_are_charged_to_what_took_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lookahead.decoding.loop.StepClock", StepClock)
    monkeypatch.setattr("lookahead.decoding.loop.perf_counter", lambda: now[0])

    def taking(method, seconds):
        def call(*arguments, **options):
            now[0] += seconds
            return method(*arguments, **options)

        return call

    monkeypatch.setattr(CountingModel, "prefill", taking(CountingModel.prefill, 1000))
    monkeypatch.setattr(CountingModel, "forward", taking(CountingModel.forward, 100))
    monkeypatch.setattr(CountingModel, "keep", taking(CountingModel.keep, 10))
    monkeypatch.setattr(ChainDrafter, "propose", taking(ChainDrafter.propose, 1))
    _, _, stats = run(ChainDrafter(levels=4, wrong_from=2), new_tokens=10)
    assert stats.row_steps == 3
    assert (stats.prefill_s, stats.model_s, stats.cache_s, stats.draft_s) == (1000, 300, 30, 3)

"""The loop over a model that counts: no weights, every step visible."""

import numpy as np
import torch

from lookahead.decoding.emission import Emission
from lookahead.decoding.loop import decode
from lookahead.drafting.tree import DraftTree
from lookahead.stats import GenerationStats

VOCABULARY = 50


class CountingModel:
    """After token t comes t + 1. Remembers what its cache holds."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.cache: list[int] = []
        self.kept: list[list[int]] = []
        self.levels_left = 99

    def _logits(self, tokens):
        return torch.nn.functional.one_hot(torch.as_tensor(tokens).long() + 1, VOCABULARY).float()

    def prefill(self):
        self.cache.append(self.first)
        return self._logits([self.first - 1, self.first])

    def forward(self, tree):
        self.tree = tree
        return self._logits(tree.token_ids)

    def keep(self, path):
        self.kept.append(path)
        self.cache += [int(self.tree.token_ids[node]) for node in path]


class ChainDrafter:
    """Drafts a chain of the next tokens, right up to the `wrong_from`-th."""

    def __init__(self, levels: int, wrong_from: int) -> None:
        self.levels, self.wrong_from = levels, wrong_from
        self.learned: list[int] = []
        self.asked: list[int] = []
        self.events: list[tuple] = []

    recycles = True

    def get_ready(self):
        self.events.append(("ready",))

    def recycle_prompt(self, successors):
        self.events.append(("recycle prompt", successors[:, 0].tolist()))

    def recycle(self, draft, path, successors):
        self.events.append(("recycle", draft.token_ids.tolist(), path, successors[:, 0].tolist()))

    def adapt(self, nodes, tokens, seconds):
        assert set(seconds) == {"draft_s", "model_s", "verify_s", "recycle_s"}
        assert all(value >= 0 for value in seconds.values())
        self.events.append(("adapt", nodes, tokens))

    def propose(self, most_levels):
        self.asked.append(most_levels)
        length = 1 + min(self.levels, most_levels)
        tokens = self.learned[-1] + np.arange(length)
        tokens[1 + self.wrong_from :] += 7
        return DraftTree(
            tokens.astype(np.int32),
            np.arange(-1, length - 1, dtype=np.int32),
            np.arange(length, dtype=np.int32),
            np.ones(length),
        )

    def learn(self, tokens):
        self.learned += tokens


def run(drafter, new_tokens, levels_left=99):
    model = CountingModel(first=3)
    model.levels_left = levels_left
    emission = Emission(
        torch.tensor([[3]]),
        max_length=1 + new_tokens,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: torch.zeros(ids.shape[0], dtype=torch.bool),
        do_sample=False,
    )
    stats = GenerationStats()
    decode(model, drafter, emission, stats)
    return model, emission.token_ids[0].tolist(), stats


def test_drafts_that_are_right_are_kept_up_to_the_first_wrong_one():
    drafter = ChainDrafter(levels=4, wrong_from=2)
    model, tokens, stats = run(drafter, new_tokens=10)
    assert tokens == list(range(3, 14))
    assert model.kept == [[0, 1, 2]] * 3
    assert (stats.steps, stats.tokens, stats.requests) == (3, 10, 1)
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
    run(drafter, new_tokens=7, levels_left=2)
    assert drafter.asked == [2, 2]


def test_one_token_needs_no_step():
    _, tokens, stats = run(ChainDrafter(levels=3, wrong_from=9), new_tokens=1)
    assert tokens == [3, 4]
    assert stats.steps == 0
    assert stats.mean_acceptance_length == 1.0


def test_the_drafter_is_told_what_each_step_did_and_what_the_model_held_likeliest():
    drafter = ChainDrafter(levels=2, wrong_from=1)
    run(drafter, new_tokens=5)
    assert drafter.events == [
        ("ready",),
        ("recycle prompt", [3, 4]),
        ("recycle", [4, 5, 13], [0, 1], [5, 6, 14]),
        ("adapt", 3, 2),
        ("recycle", [6, 7], [0, 1], [7, 8]),
        ("adapt", 2, 2),
    ]


def test_nothing_is_measured_or_recycled_for_an_answer_of_one_token():
    drafter = ChainDrafter(levels=2, wrong_from=1)
    run(drafter, new_tokens=1)
    assert drafter.events == []

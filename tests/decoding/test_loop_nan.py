"""Logits that are NaN: of a draft, which is then verified again without it, and of the text itself."""

import pytest
import torch

from decoding.test_loop import ChainDrafter, CountingModel
from lookahead.decoding.loop import decode
from lookahead.decoding.sampling.choice import argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.stats import GenerationStats

NEW_TOKENS = 12


class SpoilingModel(CountingModel):
    """A drafted token that is `spoiling` makes all logits of its row NaN; a text that has it is NaN, too."""

    def __init__(self, first, spoiling):
        super().__init__(first)
        self.spoiling = spoiling
        self.sizes = []

    def forward(self, drafts):
        logits = super().forward(drafts)
        self.sizes.append(len(self.tree))
        if self.spoiling in [*self.cache, *self.tree.token_ids.tolist()]:
            logits[0][:] = torch.nan
        return logits


def run(model, drafter):
    state = GenerationState(
        torch.tensor([[3]]),
        max_length=1 + NEW_TOKENS,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: torch.zeros(ids.shape[0], dtype=torch.bool),
        choose=argmax,
    )
    stats = GenerationStats()
    decode(model, drafter, [state], stats)
    return state.token_ids[0].tolist(), stats


@pytest.mark.parametrize("spoiling", [12, 13, 20])
def test_a_draft_that_spoils_its_row_is_verified_again_without_it(spoiling):
    model, drafter = SpoilingModel(3, spoiling), ChainDrafter(levels=3, wrong_from=1)  # from 4 on: 4 5 13 14
    tokens, stats = run(model, drafter)
    right = list(range(3, 4 + NEW_TOKENS))
    end = right.index(spoiling) + 1 if spoiling in right else len(right)
    assert tokens[:end] == right[:end]
    assert not any(tokens[end:])  # the argmax of NaNs is 0
    assert [] in model.kept  # the spoiled step was taken back
    assert model.cache == tokens[:-1]
    assert stats.tokens == NEW_TOKENS


def test_a_row_that_is_nan_without_a_draft_is_drafted_no_more():
    model, drafter = SpoilingModel(3, spoiling=3), ChainDrafter(levels=3, wrong_from=9)
    tokens, _ = run(model, drafter)
    assert tokens == [3, 4] + [0] * (NEW_TOKENS - 1)
    assert model.sizes == [4] + [1] * (NEW_TOKENS - 1)
    assert drafter.asked[1:] == [0] * (NEW_TOKENS - 2)

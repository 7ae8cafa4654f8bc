"""Finished rows go on with padding while others that advance with them are under way."""

import torch

from lookahead.decoding.sampling.choice import argmax
from lookahead.decoding.sampling.state import GenerationState, padding_drafts
from lookahead.drafting.tree import DraftTree


def emission_after(tokens: list[int], *, pad: int | None) -> GenerationState:
    """Three rows after one step; 7 ends a row."""
    state = GenerationState(
        torch.tensor([[1], [2], [3]]),
        max_length=9,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: ids[:, -1] == 7,
        choose=argmax,
        pad_token_id=pad,
    )
    state.emit(torch.nn.functional.one_hot(torch.tensor(tokens), 8).float())
    return state


def test_a_finished_row_is_drafted_as_deep_as_the_deepest_of_the_others():
    drafts = {0: DraftTree.chain([4, 5, 6]), 2: DraftTree.root_only(5)}
    padding = padding_drafts([emission_after([4, 7, 5], pad=0)], drafts)
    assert list(padding) == [1]
    assert padding[1].token_ids.tolist() == [7, 0, 0]
    assert padding[1].depths.tolist() == [0, 1, 2]


def test_rows_that_go_on_by_themselves_are_not_padded():
    drafts = {row: DraftTree.root_only(4) for row in range(3)}
    assert padding_drafts([emission_after([4, 7, 5], pad=None)], drafts) == {}
    assert padding_drafts([emission_after([4, 4, 5], pad=0)], drafts) == {}

"""Hand-drawn trees and a model of one-hot logits: which path is kept, which tokens come out."""

import numpy as np
import pytest
import torch

from lookahead.decoding.acceptance import accept
from lookahead.decoding.logits import TreeLogits
from lookahead.decoding.logits_summary import summarize
from lookahead.decoding.sampling.choice import argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree

#      0:a
#     /    \
#   1:b    3:c
#    |     /  \
#   2:d  4:d  5:e
A, B, C, D, E, F = range(6)
TREE = DraftTree(
    np.array([A, B, D, C, D, E], np.int32),
    np.array([-1, 0, 1, 0, 3, 3], np.int32),
    np.array([0, 1, 2, 1, 2, 2], np.int32),
    np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5]),
)


def logits_saying(choices: list[int]) -> torch.Tensor:
    """[n, 6]: node i wants choices[i] next."""
    return torch.nn.functional.one_hot(torch.tensor(choices), 6).float()


def state(*, max_length: int = 100, stop_at: int | None = None) -> GenerationState:
    return GenerationState(
        torch.tensor([[A]]),
        max_length=max_length,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: ids[:, -1] == (-1 if stop_at is None else stop_at),
        choose=argmax,
    )


def accept_one(tree, logits, answer):
    return accept({0: tree}, {0: logits}, answer)[0]


@pytest.mark.parametrize(
    ("choices", "path", "tokens"),
    [
        ([F, F, F, F, F, F], [0], [F]),  # nothing accepted: the bonus alone
        ([B, F, F, F, F, F], [0, 1], [B, F]),
        ([B, D, F, F, F, F], [0, 1, 2], [B, D, F]),  # a whole branch, and the bonus
        ([C, F, F, E, F, A], [0, 3, 5], [C, E, A]),
        ([C, F, F, D, B, F], [0, 3, 4], [C, D, B]),  # d under c, not the d under b
        ([D, F, F, F, F, F], [0], [D]),  # a token of the tree, but no child of this node
    ],
)
def test_the_models_own_path_is_kept(choices, path, tokens):
    accepted = accept_one(TREE, logits_saying(choices), state())
    assert (accepted.path, accepted.tokens) == (path, tokens)


def test_where_the_likeliest_tokens_are_known_the_logits_are_not_looked_at():
    answer = state(max_length=4)
    answer_of_known = GenerationState(
        torch.tensor([[A]]),
        max_length=4,
        process=None,  # type: ignore[arg-type]
        is_finished=None,  # type: ignore[arg-type]
        choose=None,  # type: ignore[arg-type]
        ends=(),
    )
    logits = logits_saying([C, F, F, E, F, A])
    known = TreeLogits({0: TREE}, {0: 0}, torch.full((1, 8, 6), torch.nan), summarize(logits)[None])
    assert known[0].shape == (6, 6)
    assert accept({0: TREE}, known, answer_of_known) == accept({0: TREE}, {0: logits}, answer)
    assert answer_of_known.finished
    assert answer_of_known.token_ids.tolist() == answer.token_ids.tolist() == [[A, C, E, A]]


def test_stops_inside_an_accepted_span():
    accepted = accept_one(TREE, logits_saying([B, D, F, F, F, F]), state(stop_at=B))
    assert (accepted.path, accepted.tokens) == ([0], [B])


def test_never_exceeds_the_length_limit():
    answer = state(max_length=3)
    accepted = accept_one(TREE, logits_saying([B, D, F, F, F, F]), answer)
    assert accepted.tokens == [B, D]
    assert answer.finished
    assert answer.token_ids.tolist() == [[A, B, D]]


def test_a_parallel_draft_follows_the_branch_that_goes_on():
    # Two branches begin with b; only the second continues as the model does.
    tree = DraftTree(
        np.array([A, B, C, B, D], np.int32),
        np.array([-1, 0, 1, 0, 3], np.int32),
        np.array([0, 1, 2, 1, 2], np.int32),
        np.array([1, 0.9, 0.8, 0.9, 0.7]),
    )
    accepted = accept_one(tree, logits_saying([B, D, F, D, E]), state())
    assert (accepted.path, accepted.tokens) == ([0, 3, 4], [B, D, E])


def rows_of(prompts, *, stop_at, pad=None, max_length=100):
    return GenerationState(
        torch.tensor(prompts),
        max_length=max_length,
        process=lambda _ids, scores: scores,
        is_finished=lambda ids, _scores: ids[:, -1] == stop_at,
        choose=argmax,
        pad_token_id=pad,
    )


def test_rows_that_advance_together_wait_for_the_min_accepted():
    drafts = {0: TREE, 1: DraftTree.chain([A, E, E, E])}
    logits = {0: logits_saying([B, D, F, F, F, F]), 1: logits_saying([E, C, F, F])}
    accepted = accept(drafts, logits, rows_of([[A], [A]], stop_at=-1))
    assert (accepted[0].path, accepted[0].tokens) == ([0, 1], [B, D])  # d was drafted, too
    assert (accepted[1].path, accepted[1].tokens) == ([0, 1], [E, C])


def test_a_row_that_ends_is_padded_as_far_as_it_was_drafted():
    drafts = {0: DraftTree.chain([A, E, F, F]), 1: DraftTree.chain([A, B, C, D])}
    logits = {0: logits_saying([E, A, A, A]), 1: logits_saying([B, C, D, D])}
    answer = rows_of([[A], [A]], stop_at=E, pad=F)
    accepted = accept(drafts, logits, answer)
    assert (accepted[0].path, accepted[0].tokens) == ([0, 1, 2, 3], [E])
    assert (accepted[1].path, accepted[1].tokens) == ([0, 1, 2, 3], [B, C, D, D])
    assert answer.token_ids.tolist() == [[A, E, F, F, F], [A, B, C, D, D]]
    assert answer.padded_rows == {0}

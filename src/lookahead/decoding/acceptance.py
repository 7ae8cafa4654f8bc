"""Acceptance: keep the longest path of the draft that the model itself would have produced (VA, section 4.4).

At each node the model's own token is chosen; where a child carries it the walk goes on there, where none
does it ends, and that last token is the bonus. Greedy and sampling alike: a drawn token never depends on
the draft, so the text is the model's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lookahead.decoding.logits import argmax_of
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree


@dataclass(frozen=True)
class Acceptance:
    """What one forward yielded for a row.

    Attributes:
        path: the accepted nodes from node 0 down, whose keys and values stay in the cache.
        tokens: the emitted tokens, the bonus last; one for each node of the path, less where the answer
            ended within it and was padded from there on.
    """

    path: list[int]
    tokens: list[int]


def accept(
    drafts: Mapping[int, DraftTree], logits: Mapping[int, Tensor], state: GenerationState
) -> dict[int, Acceptance]:
    """Walk down the drafts of rows that advance together, along the model's own choices, emitting each.

    Args:
        drafts: by row, a tree of n nodes.
        logits: by row [n, V], each node's for the token after it.
        state: chooses the tokens and knows when the answers are finished.

    Returns:
        What each of the emission's rows yielded, by row. The paths are equally long: the walk ends where
        any row has no child to go on with.
    """
    rows = state.rows
    argmax = argmax_of(logits) if state.takes_chosen else None
    tokens: dict[int, list[int]] = {row: [] for row in rows}
    here = {row: [0] for row in rows}  # in a parallel draft several nodes can stand for the same tokens
    while True:
        padded = state.padded_rows
        at = {row: here[row][0] for row in rows}
        if state.takes_chosen:
            chosen = state.emit_chosen(_argmax_at(at, logits, argmax, state))
        else:
            chosen = state.emit(_logits_at(at, logits))
        below: dict[int, list[int]] = {}
        for row, token in zip(rows, chosen, strict=True):
            if row not in padded:
                tokens[row].append(token)
            below[row] = [] if state.finished else drafts[row].children_with_token(here[row], token)
        if not all(below.values()):
            break
        here = below
    return {row: Acceptance(drafts[row].path_to(here[row][0]), tokens[row]) for row in rows}


def _argmax_at(
    nodes: Mapping[int, int],
    logits: Mapping[int, Tensor],
    argmax: Mapping[int, list[int]] | None,
    state: GenerationState,
) -> list[int]:
    """Return the likeliest token at one node of each row; its margin is taken account of."""
    scores = _logits_at(nodes, logits)
    left_out = [at for at, row in enumerate(nodes) if row in state.padded_rows]
    if argmax is None and scores.device.type == "cpu":
        return state.margin.choose(scores, left_out)
    state.margin.see(scores, left_out)
    if argmax is None:
        return [int(token) for token in scores.float().argmax(dim=-1).tolist()]
    return [argmax[row][node] for row, node in nodes.items()]


def _logits_at(nodes: Mapping[int, int], logits: Mapping[int, Tensor]) -> Tensor:
    """Return the logits [B, V] at one node of each row."""
    chosen = [logits[row][node] for row, node in nodes.items()]
    return chosen[0][None] if len(chosen) == 1 else torch.stack(chosen)

"""Acceptance: keep the longest path of the draft that the model itself would have produced (VA, section 4.4).

At each node on the way, choose the model's own token. If a child has this token, go to that child. Otherwise
stop: this last token is the bonus token. Greedy and sampling are alike: the chosen token never depends on the
draft, so the text is the model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lookahead.decoding.logits import summary_of
from lookahead.decoding.sampling.device_walk import can_walk, sample_down
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree


@dataclass(frozen=True)
class Acceptance:
    """The result of one forward pass for a row.

    Attributes:
        path: The accepted nodes from node 0 down, whose keys and values stay in the cache.
        tokens: The emitted tokens, the bonus last: one per node of the path, or fewer if the answer ended
            within it and was then padded.
        nodes: Nodes of the draft, node 0 included.
    """

    path: list[int]
    tokens: list[int]
    nodes: int = 1


def accept(
    drafts: Mapping[int, DraftTree],
    logits: Mapping[int, Tensor],
    state: GenerationState,
    are_current: Callable[[], bool] = lambda: True,
) -> dict[int, Acceptance]:
    """Walk down the drafts of a state's rows in lockstep, follow the model's own choices, and emit them.

    Args:
        drafts: By row, a tree of n nodes.
        logits: By row, [n, V], each node's logits for the token after it.
        state: Chooses the tokens and knows when the answers are finished.
        are_current: Returns whether the logits are those of the model as it is now.

    Returns:
        The acceptance of each of the state's rows. The paths are equally long: the walk ends when any row
        has no child with the chosen token, or when the callbacks of a token changed the model.
    """
    rows = state.rows
    if can_walk(state, logits[rows[0]]):
        return {rows[0]: _accept_samples(drafts[rows[0]], logits[rows[0]], state, are_current)}
    tokens: dict[int, list[int]] = {row: [] for row in rows}
    here = {row: [0] for row in rows}  # in a parallel draft, several nodes can have the same tokens
    while True:
        padded = state.padded_rows
        at = {row: here[row][0] for row in rows}
        if state.needs_only_argmax:
            chosen = state.emit_argmax(_argmax_at(at, logits, state))
        else:
            chosen = state.emit(_logits_at(at, logits))
        below: dict[int, list[int]] = {}
        for row, token in zip(rows, chosen, strict=True):
            if row not in padded:
                tokens[row].append(token)
            below[row] = [] if state.finished else drafts[row].children_with_token(here[row], token)
        if not all(below.values()) or not are_current():
            break
        here = below
    return {row: Acceptance(drafts[row].path_to(here[row][0]), tokens[row], len(drafts[row])) for row in rows}


def _accept_samples(
    draft: DraftTree, logits: Tensor, state: GenerationState, are_current: Callable[[], bool]
) -> Acceptance:
    """Walk down the draft of one row, whose tokens the device samples."""
    assert state.noise is not None  # noqa: S101  # then `can_walk` is False
    noise, taken, here = state.noise, [], [0]
    try:
        for token in sample_down(draft, logits, state):
            state.take(token)
            taken.append(token)
            below = [] if state.finished else draft.children_with_token(here, token)
            if not below or not are_current():
                break
            here = below
    finally:
        noise.settle(len(taken))
    return Acceptance(draft.path_to(here[0]), taken, len(draft))


def _argmax_at(nodes: Mapping[int, int], logits: Mapping[int, Tensor], state: GenerationState) -> list[int]:
    """Return the argmax at one node of each row, and note its margin."""
    summaries = [summary_of(logits, row) for row in nodes]
    known = [summary for summary in summaries if summary is not None]
    if len(known) == len(summaries):
        for row, summary in zip(nodes, known, strict=True):
            if row not in state.padded_rows:
                state.margin.include(summary.margin(nodes[row]))
        return [summary.argmax(node) for summary, node in zip(known, nodes.values(), strict=True)]
    scores = _logits_at(nodes, logits)
    left_out = [index for index, row in enumerate(nodes) if row in state.padded_rows]
    if scores.device.type == "cpu":
        return state.margin.argmax_and_note(scores, left_out)
    state.margin.note(scores, left_out)
    return [int(token) for token in scores.float().argmax(dim=-1).tolist()]


def _logits_at(nodes: Mapping[int, int], logits: Mapping[int, Tensor]) -> Tensor:
    """Return the logits [B, V] at one node of each row."""
    chosen = [logits[row][node] for row, node in nodes.items()]
    return chosen[0][None] if len(chosen) == 1 else torch.stack(chosen)

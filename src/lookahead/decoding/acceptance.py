"""Acceptance: keep the longest path of the draft that the model itself would have produced (VA, section 4.4).

At each node on the way, choose the model's own token. If a child has this token, go to that child. Otherwise
stop: this last token is the bonus token. Greedy and sampling are alike: the chosen token never depends on the
draft, so the text is the model's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookahead.decoding.logits import summary_of
from lookahead.decoding.sampling.device_walk import Samples, can_walk, sample_down
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


def accept_all(
    drafts: Mapping[int, DraftTree],
    logits: Mapping[int, Tensor],
    states: Sequence[GenerationState],
    are_current: Callable[[], bool] = lambda: True,
    failures: dict[int, Exception] | None = None,
) -> dict[int, Acceptance]:
    """Accept for the rows of all states that are not finished, as `accept` does.

    Samples of several rows that are drawn on a device are waited for together.

    Args:
        drafts: As for `accept`.
        logits: As for `accept`.
        states: The states.
        are_current: As for `accept`.
        failures: Takes exceptions, by row; such a row accepts nothing. If None, an exception is raised.
    """
    under_way = [state for state in states if not state.finished]
    walking = [state for state in under_way if can_walk(state, logits[state.rows[0]])]
    accepted: dict[int, Acceptance] = {}
    try:
        samples = sample_down(drafts, logits, walking) if walking else {}
        for state in under_way:
            try:
                accepted |= accept(drafts, logits, state, are_current, samples.get(state.rows[0]))
            except Exception as error:
                if failures is None:
                    raise
                failures.update(dict.fromkeys(state.rows, error))
                accepted |= {row: Acceptance([], []) for row in state.rows}
    finally:
        _settle(walking)
    return accepted


def accept(
    drafts: Mapping[int, DraftTree],
    logits: Mapping[int, Tensor],
    state: GenerationState,
    are_current: Callable[[], bool] = lambda: True,
    samples: Samples | None = None,
) -> dict[int, Acceptance]:
    """Walk down the drafts of a state's rows in lockstep, follow the model's own choices, and emit them.

    Args:
        drafts: By row, a tree of n nodes.
        logits: By row, [n, V], each node's logits for the token after it.
        state: Chooses the tokens and knows when the answers are finished.
        are_current: Returns whether the logits are those of the model as it is now.
        samples: The tokens that a device sampled down the draft of the state's only row, if one did.

    Returns:
        The acceptance of each of the state's rows. The paths are equally long: the walk ends when any row
        has no child with the chosen token, or when the callbacks of a token changed the model.
    """
    rows = state.rows
    if samples is not None:
        return {rows[0]: _accept_samples(drafts[rows[0]], samples, state, are_current)}
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
    draft: DraftTree, samples: Samples, state: GenerationState, are_current: Callable[[], bool]
) -> Acceptance:
    """Walk down the draft of one row, whose tokens the device sampled."""
    assert state.noise is not None  # noqa: S101  # then `can_walk` is False
    noise, taken, here = state.noise, [], [0]
    try:
        for token in samples:
            state.take(token)
            taken.append(token)
            below = [] if state.finished else draft.children_with_token(here, token)
            if not below or not are_current():
                break
            here = below
    finally:
        noise.settle(len(taken))
    return Acceptance(draft.path_to(here[0]), taken, len(draft))


def _settle(states: Iterable[GenerationState]) -> None:
    """Give back the noise of samples that were not looked at, because an exception came first."""
    for state in states:
        if state.noise is not None:
            state.noise.settle(0)


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

"""Rows that are finished while others they advance with are not: they go on with padding."""

from collections.abc import Mapping, Sequence

from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree


def padding_drafts(
    states: Sequence[GenerationState], drafts: Mapping[int, DraftTree]
) -> dict[int, DraftTree]:
    """Return drafts for the rows that are padded: what they go on with is certain.

    Callbacks that see all rows at once see the logits of finished ones too, so that these stay in the
    forward until all are finished. Such a draft is as deep as the deepest of the others, so that no row
    waits for it.

    Args:
        states: those of the batch.
        drafts: of the rows that are not padded, by row.
    """
    levels = max(int(draft.depths.max()) for draft in drafts.values())
    return {
        row: DraftTree.chain([int(state.token_ids[place, -1])] + [state.pad_token_id] * levels)
        for state in states
        if state.pad_token_id is not None and not state.finished
        for place, row in enumerate(state.rows)
        if row in state.padded_rows
    }

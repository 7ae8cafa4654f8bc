"""Try whether a model's own code takes the nodes of several rows one after the other."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.drafting.tree import DraftTree
from lookahead.errors import first_line
from lookahead.hf.attention.flat_rows import unsupported_reason
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.eager import EagerRunner, FlatRunner, flat_rows_of
from lookahead.hf.steps.runner import Row, StepBatch
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.trial import restore_later

_ROUNDING_FACTOR = 32.0
_RELATIVE_FLOOR = 1e-4
"""Logits may differ by so many units of rounding, times their spread: as much as the probe allows a chain."""
_SHARE_OF_NODES = 0.75
"""Share of a mixture's nodes that must agree in half precision, where rounding may choose other experts."""
_PROMPT_LENGTHS = (5, 3, 9, 4)
_PARENTS = ([-1, 0, 1, 0], [-1], [-1], [-1, 0, 1, 2, 3, 4])
"""A tree, two rows that are attended to together although their lengths differ, and a part of a prompt."""


def why_not_flat(model: PreTrainedModel, layout: AttentionLayout, verification: Verification) -> str:
    """Return why the rows of a step cannot lie one after the other, in words; empty if they can.

    This takes nine small forward passes of a model that may support it.

    Args:
        model: A decoder-only model.
        layout: How its layers see the past.
        verification: How its drafts are verified, which is known to be right for one row.
    """
    traits = ModelTraits.of(model)
    if verification.mode is not VerificationMode.TREE:
        return "its drafts are not verified as trees"
    if not verification.rows_may_differ or traits.limits.counts_slots_somewhere:
        return "its rows have to be equally long"
    reason = unsupported_reason(traits)
    if reason:
        return reason
    changes = TemporaryChanges()
    try:
        with changes, changes:
            restore_later(model, changes)
            together, alone = _logits(model, traits, layout, verification)
    except Exception as problem:  # noqa: BLE001  # a model's code may raise anything
        name = type(problem).__name__
        return f"a forward pass of rows one after the other raised {name}: {first_line(problem)}"
    spread = float(alone.std())
    allowed = max(_RELATIVE_FLOOR, _ROUNDING_FACTOR * torch.finfo(model.dtype).eps) * spread
    errors = (together - alone).abs().amax(dim=-1)
    is_half = torch.finfo(model.dtype).bits < 32
    share = float((errors <= allowed).float().mean())
    if share < (_SHARE_OF_NODES if is_half and traits.has_experts else 1.0):
        return f"logits of rows one after the other differ by {float(errors.max()):.3g}, more than rounding"
    return ""


@torch.no_grad()
def _logits(
    model: PreTrainedModel, traits: ModelTraits, layout: AttentionLayout, verification: Verification
) -> tuple[Tensor, Tensor]:
    """Return logits [N, V] of all nodes, of rows one after the other and of each row alone."""
    cache = ArenaCache(layout.kept, 32, layout.borrowing, max_rows=len(_PARENTS))
    eager, vocabulary = EagerRunner(model, traits, layout, verification), int(text_config(model).vocab_size)
    rows: list[Row] = []
    for index, length in enumerate(_PROMPT_LENGTHS):
        row = Row(cache.arena.add_row())
        tokens = ((np.arange(length) * 104729 + 5 + 17 * index) % vocabulary).tolist()
        cache.arena.set_active_rows([row.slot])
        eager.read(StepBatch([row], [DraftTree.chain(tokens)], cache), [1])
        cache.arena.keep({row.slot: range(length)})
        row.position = length
        rows.append(row)
    trees = [_tree(parents, index, vocabulary) for index, parents in enumerate(_PARENTS)]
    alone = []
    for row, tree in zip(rows, trees, strict=True):
        cache.arena.set_active_rows([row.slot])
        alone.append(eager.forward(StepBatch([row], [tree], cache), len(tree))[0])
        cache.arena.keep({row.slot: []})
    cache.arena.set_active_rows([row.slot for row in rows])
    batch = StepBatch(rows, trees, cache)
    together = FlatRunner(eager).forward(batch, flat_rows_of(batch), [len(tree) for tree in trees])
    if together is None:
        message = "the cache has layers that nothing was written to"
        raise RuntimeError(message)
    return torch.cat(together).float(), torch.cat(alone).float()


def _tree(parents: list[int], index: int, vocabulary: int) -> DraftTree:
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    tokens = (np.arange(len(parents)) * 7919 + 11 + 31 * index) % vocabulary
    return DraftTree(
        tokens.astype(np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.ones(len(parents)),
    )

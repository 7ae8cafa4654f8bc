"""A model's forward pass over draft trees as a function of one tensor, which a graph can repeat."""

import weakref
from collections.abc import Callable

from torch import Tensor
from transformers import PreTrainedModel

from lookahead.backends.cuda.attention_choice import without_cudnn
from lookahead.backends.cuda.packed_trees import PackedTrees
from lookahead.hf.attention import tree_kernel
from lookahead.hf.attention.grouped_query import attend_by_grouped_queries, with_repeated_rows
from lookahead.hf.cache.bucket_cache import BucketCache
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import ModelTraits


def run_of(
    model: PreTrainedModel,
    traits: ModelTraits,
    layout: AttentionLayout,
    cache: BucketCache,
    slots: int,
    *,
    groups_queries: bool,
    by_kernel: bool,
) -> Callable[[PackedTrees], Tensor]:
    """Return a model's forward pass as a function of only the packed trees, to logits [B, n, V].

    Args:
        model: The model; the function does not keep it alive.
        traits: Its traits.
        layout: How its layers see the past.
        cache: Where keys and values are.
        slots: Slots of each row that torch's attention computes.
        groups_queries: Whether torch's attention is given grouped queries.
        by_kernel: Whether it attends by our kernels.
    """
    groups, dtype = traits.query_groups if groups_queries else 1, traits.dtype
    reference = weakref.ref(model)

    def run(trees: PackedTrees) -> Tensor:
        model = reference()
        assert model is not None, "its steps are dropped with it"  # noqa: S101  # cannot happen
        masks = (
            tree_kernel.trees_as_masks(trees, layout)
            if by_kernel
            else {
                name: with_repeated_rows(
                    trees.mask(slots, dtype, window=window, chunk=layout.chunks.get(name)), groups
                )
                for name, window in layout.windows.items()
            }
        )
        cache.move(*trees.moves)
        cache.write_at(trees.slots)
        changes = TemporaryChanges()
        # One thread at a time: another one would switch the attention back in the middle of a capture.
        with without_cudnn(trees.packed.device), changes, changes:
            if by_kernel:
                tree_kernel.attend_by_kernel(model, changes)
            elif groups_queries:
                attend_by_grouped_queries(model, changes)
            outputs = model(
                input_ids=trees.tokens,
                position_ids=trees.positions,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        logits: Tensor = outputs.logits
        return logits

    return run

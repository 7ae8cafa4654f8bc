"""How drafts of a model are verified: as trees, as chains, or not at all."""

from dataclasses import dataclass
from enum import StrEnum


class ModelMode(StrEnum):
    """What a model can be trusted with."""

    TREE = "tree"
    """A draft tree in one forward, with a 4-D mask."""
    CHAIN = "chain"
    """A single branch in one forward, masked as the library masks several tokens behind a cache."""
    PLAIN = "plain"
    """One token a forward, in the library's own cache."""


@dataclass(frozen=True)
class Verification:
    """How a model's drafts are verified.

    Attributes:
        mode: what it can be trusted with.
        folds: whether grouped queries are laid side by side, with the mask repeated ahead for them; not where
            the model itself reckons with its mask.
        is_fused: whether steps are done by a function of our own over the model's weights.
        shape: tokens of each row in every forward, where all have one shape, and each node attends to its own
            branch in the order of the text; None where they may differ.
        rows_may_differ: whether the rows of a batch may be of different lengths in the cache, with gaps.
    """

    mode: ModelMode = ModelMode.TREE
    folds: bool = True
    is_fused: bool = False
    shape: int | None = None
    rows_may_differ: bool = True


def ordered(shape: int) -> Verification:
    """Return how trees are verified in forwards of one shape, each branch in the order of the text."""
    return Verification(folds=False, shape=shape)


FUSED = Verification(folds=False, is_fused=True)
TREE = Verification()
TREE_UNFOLDED = Verification(folds=False)
CHAIN = Verification(ModelMode.CHAIN, folds=False, rows_may_differ=False)
PLAIN = Verification(ModelMode.PLAIN, folds=False, rows_may_differ=False)

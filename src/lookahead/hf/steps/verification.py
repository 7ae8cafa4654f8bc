"""How drafts of a model are verified: as trees, as chains, or not at all."""

from dataclasses import dataclass
from enum import StrEnum


class VerificationMode(StrEnum):
    """What the probe found a model to compute correctly."""

    TREE = "tree"
    """A draft tree in one forward pass, with a 4-D mask."""
    CHAIN = "chain"
    """A single branch in one forward pass, with the mask that the model itself makes for several tokens."""
    PLAIN = "plain"
    """One token per forward pass, in transformers' own cache."""


@dataclass(frozen=True)
class Verification:
    """How a model's drafts are verified.

    Attributes:
        mode: Trees, chains or plain steps.
        groups_queries: Whether grouped queries are laid side by side, with the mask repeated for them; not
            if the model itself computes with its mask.
        is_compiled: Whether the compiled CPU decoder does the steps.
        fixed_width: Tokens of each row in every forward pass, if all have one width and each node attends to
            its own branch in the order of the text; None if widths may differ.
        rows_may_differ: Whether the rows of a batch may hold texts of different lengths.
        is_flat: Whether the model's own code takes the nodes of all rows one after the other, so that each
            row has its own number of them.
    """

    mode: VerificationMode = VerificationMode.TREE
    groups_queries: bool = True
    is_compiled: bool = False
    fixed_width: int | None = None
    rows_may_differ: bool = True
    is_flat: bool = False

    @property
    def runner_name(self) -> str:
        """Name of the steps' runner; empty for the model's own code in the drafts' width."""
        if self.is_compiled:
            return "fused"
        if self.is_flat:
            return "flat"
        return "" if self.fixed_width is None else f"ordered {self.fixed_width}"


def of_fixed_width(width: int) -> Verification:
    """Return the verification in forward passes of one width, each branch in the order of the text."""
    return Verification(groups_queries=False, fixed_width=width)


COMPILED = Verification(groups_queries=False, is_compiled=True)
TREE = Verification()
TREE_UNGROUPED = Verification(groups_queries=False)
CHAIN = Verification(VerificationMode.CHAIN, groups_queries=False, rows_may_differ=False)
PLAIN = Verification(VerificationMode.PLAIN, groups_queries=False, rows_may_differ=False)

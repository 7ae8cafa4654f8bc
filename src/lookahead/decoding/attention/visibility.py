"""Which places of its text a node of a draft tree sees: the one rule that masks, tables and kernels render.

A row's text is all that the cache holds for the row, padding included, followed by the path from node 0 to
the node. *Places* count that text from 0; a node's own place is the row's length plus the node's depth. The
row's tree lies directly after its text: node i is in slot length + i.

    place          0 1 2 3 4 5 6 7 8      window 4, left padding 2, length 6
    cache          p p a b c d            node 0 (place 6) sees places 3 to 6
    tree                       0          node 1 and 2, its children (place 7), see 4 to 7: two cached
                               | |        tokens, node 0, themselves, and never each other
                               1 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.tree import DraftTree


@dataclass(frozen=True)
class TreeRow:
    """A row of a forward pass over draft trees.

    Attributes:
        tree: The row's draft, n nodes.
        length: Slots of the cache that hold the row's text, padding included.
        padding: Mask of the first slots, int [m]: 0 for padding; None where there is none.
        counted_padding: `left_padding` and `is_padded_left`, if they were counted before.
    """

    tree: DraftTree
    length: int
    padding: Tensor | None = None
    counted_padding: tuple[int, bool] | None = None

    @property
    def left_padding(self) -> int:
        """Slots before the row's first token; padding elsewhere does not count."""
        if self.counted_padding is not None:
            return self.counted_padding[0]
        return 0 if self.padding is None else int((self.padding.cumsum(0) == 0).sum())

    @property
    def is_padded_left(self) -> bool:
        """Whether all padding is on the left."""
        if self.counted_padding is not None:
            return self.counted_padding[1]
        return self.padding is None or bool(self.padding[self.left_padding :].all())


def first_visible(places: Any, left_padding: Any, window: int | None = None, chunk: int | None = None) -> Any:
    """For the token at each place, return the first place that it sees.

    The last place that it sees is its own.

    Args:
        places: Integers, an array or a tensor of any shape.
        left_padding: Slots before the row's first token, of a shape that broadcasts.
        window: Places that a token sees, itself included; None for all.
        chunk: Places of a chunk, counted after the left padding: a token sees only its own chunk; None
            where there are none.

    Returns:
        Integers of the shape of `places`, of the same library.
    """
    first = places * 0 + left_padding
    if window is not None:
        first = first + (places - window + 1 - first).clip(0)
    if chunk is not None:
        begin = (places - left_padding) // chunk * chunk + left_padding
        first = first + (begin - first).clip(0)
    return first


@dataclass(frozen=True)
class Visibility:
    """The places that the nodes of a batch of draft trees see.

    A node sees the places from `first` to its own place, along its own branch, without padding. All rows of a
    forward pass have one width. A smaller tree is padded with copies of node 0; their results are not read.

    Attributes:
        places: int64 [B, size], each node's own place.
        first: int64 [B, size], the first place that each node sees.
    """

    places: Int64Array
    first: Int64Array

    @classmethod
    def of(
        cls, rows: Sequence[TreeRow], size: int, *, window: int | None = None, chunk: int | None = None
    ) -> "Visibility":
        """Return what the nodes of B trees see.

        Args:
            rows: B trees.
            size: Nodes of each row in the forward pass.
            window: As for `first_visible`.
            chunk: As for `first_visible`.
        """
        places = np.empty((len(rows), size), np.int64)
        for of_row, row in zip(places, rows, strict=True):
            of_row[:] = row.length
            of_row[: len(row.tree)] += row.tree.depths
        paddings = np.array([[row.left_padding] for row in rows], np.int64)
        return cls(places, first_visible(places, paddings, window, chunk))

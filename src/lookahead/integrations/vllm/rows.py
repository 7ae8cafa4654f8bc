"""`RowKeys`: which request stands in a row, if the engine does not tell.

A request is recognised by its length and its last tokens. Two requests with the same text can be taken for
each other, which does no harm: their drafts are the same.
"""

from collections.abc import Hashable

import numpy as np

from lookahead.drafting.arrays import Int32Array

_TAIL = 32


class RowKeys:
    """Follows requests from step to step as they move between rows."""

    def __init__(self) -> None:
        self._tails: dict[Hashable, tuple[int, Int32Array]] = {}
        self._rows: dict[int, Hashable] = {}
        self._next = 0

    def step(self, before: list[Int32Array | None]) -> list[Hashable | None]:
        """Return the key of each row's request; those that are in no row are forgotten.

        Args:
            before: Of each row, its text before the step's tokens; None for a row whose prompt is still read.
        """
        left = dict(self._tails)
        found: dict[int, Hashable] = {}
        for row, text in enumerate(before):
            at_home = self._rows.get(row)
            if text is not None and at_home in left and self._fits(left[at_home], text):
                found[row] = at_home
                del left[at_home]
        for row, text in enumerate(before):
            if text is None or row in found:
                continue
            key = next((key for key, tail in left.items() if self._fits(tail, text)), None)
            if key is None:
                key, self._next = self._next, self._next + 1
            else:
                del left[key]
            found[row] = key
        self._rows = found
        self._tails = {key: tail for key, tail in self._tails.items() if key in found.values()}
        return [found.get(row) for row in range(len(before))]

    def note(self, key: Hashable, text: Int32Array) -> None:
        """Note the text of a request after the step."""
        self._tails[key] = (len(text), text[-_TAIL:].copy())

    @staticmethod
    def _fits(tail: tuple[int, Int32Array], text: Int32Array) -> bool:
        length, tokens = tail
        return length == len(text) and np.array_equal(tokens, text[-_TAIL:])

"""Large matrices of cases: `make test` takes a sample of each, `make verify` the whole (LOOKAHEAD_WHOLE=1).

A test with such a matrix has the mark `matrix`, by which `make verify` finds it, and says what its sample is.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

Case = TypeVar("Case")

IS_WHOLE = os.environ.get("LOOKAHEAD_WHOLE") == "1"


def sampled(matrix: Iterable[Case], sample: Iterable[Case]) -> list[Case]:
    """Return the whole matrix where it is asked for, or else the sample, whose cases are of the matrix."""
    matrix, sample = list(matrix), list(sample)
    strangers = [case for case in sample if case not in matrix]
    if strangers or not sample:
        message = f"give a sample of the matrix: {strangers} is not of it"
        raise ValueError(message)
    return matrix if IS_WHOLE else sample


def thinned(matrix: Iterable[Case], share: int, first: int = 0) -> list[Case]:
    """Return the whole matrix where it is asked for, or else one in so many cases, from `first` on."""
    matrix = list(matrix)
    return matrix if IS_WHOLE else matrix[first::share]


def examples(count: int, share: int = 4) -> int:
    """Return how many examples a property is tried with: all, or one in so many of them."""
    return count if IS_WHOLE else -(-count // share)

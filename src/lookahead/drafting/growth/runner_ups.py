"""What the model nearly chose in a request: often it comes soon after.

Where logits are recycled, the model's most probable next tokens are known at each token of the text. Those
of the newest token's place are its *alternatives* ("next-next tokens" of LogitSpec, arXiv 2507.01449). Those
of all places before, as long as they have not come, are the *runner-ups*: their scores fade with every token,
and one that comes leaves.

    row          came   scores after it
    cat dog owl  cat    dog 1/2, owl 1/3
    owl hen dog  hen    owl 0.85/3 + 1 = 1.28, dog 0.85/2 + 1/3 = 0.76
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.frequent import UNKNOWN
from lookahead.jit import kernel, lean_kernel

ALTERNATIVES = 8
KEPT = 64
"""Runner-ups that are kept."""
RUNNER_UPS = 32
"""Of them, those whose rank counts; half of them may be candidates."""
DECAY = 0.85
_MIN_SCORE = 0.01


class RunnerUps(NamedTuple):
    """What the model nearly chose in one request.

    Attributes:
        alternatives: int32 [ALTERNATIVES], the newest row, best first; UNKNOWN where there are fewer.
        tokens: int32 [KEPT], the runner-ups, highest score first; UNKNOWN behind the last one.
        scores: float64 [KEPT].
    """

    alternatives: Int32Array
    tokens: Int32Array
    scores: Float64Array


def new_runner_ups() -> RunnerUps:
    """Return those of a request without any text."""
    return RunnerUps(
        np.full(ALTERNATIVES, UNKNOWN, np.int32), np.full(KEPT, UNKNOWN, np.int32), np.zeros(KEPT)
    )


@lean_kernel
def fade(tokens: Int32Array, scores: Float64Array) -> int:
    """Let all scores fade, drop those that are too small, and return how many runner-ups there are."""
    size = 0
    while size < KEPT and tokens[size] != UNKNOWN:
        scores[size] *= DECAY
        size += 1
    while size > 0 and scores[size - 1] < _MIN_SCORE:
        size -= 1
        tokens[size] = UNKNOWN
    return size


@lean_kernel
def place_of(tokens: Int32Array, size: int, token: Integer) -> int:
    """Return the place of a token among the first `size`, or `size`."""
    place = 0
    while place < size and tokens[place] != token:
        place += 1
    return place


@lean_kernel
def raise_score(tokens: Int32Array, scores: Float64Array, size: int, token: Integer, score: float) -> int:
    """Add to a token's score; return how many runner-ups there are. Without room, the last one leaves."""
    place = place_of(tokens, size, token)
    if place < size:
        score += scores[place]
    elif size < KEPT:
        size += 1
    elif scores[size - 1] < score:
        place = size - 1
    else:
        return size
    while place > 0 and scores[place - 1] < score:
        tokens[place], scores[place] = tokens[place - 1], scores[place - 1]
        place -= 1
    tokens[place], scores[place] = token, score
    return size


@kernel
def note_rows(runner_ups: RunnerUps, rows: Int32Array, came: Int32Array) -> None:
    """Note the model's choices along a text.

    Args:
        runner_ups: Updated.
        rows: int32 [m, k], its most probable next tokens at m tokens of the text, in order, best first.
        came: int32 [m], the token that came after each.
    """
    tokens, scores = runner_ups.tokens, runner_ups.scores
    width = min(rows.shape[1], ALTERNATIVES)
    for i in range(len(rows)):
        size = fade(tokens, scores)
        for rank in range(width):
            size = raise_score(tokens, scores, size, rows[i, rank], 1.0 / (1 + rank))
        place = place_of(tokens, size, came[i])
        if place < size:
            for later in range(place, size - 1):
                tokens[later], scores[later] = tokens[later + 1], scores[later + 1]
            tokens[size - 1] = UNKNOWN
    if len(rows):
        for rank in range(ALTERNATIVES):
            runner_ups.alternatives[rank] = rows[len(rows) - 1, rank] if rank < width else UNKNOWN

"""Acceptance: keep the longest path of the draft that the model itself would have produced (VA, section 4.4).

At each node the model's own token is chosen; where a child carries it the walk goes on there, where none
does it ends, and that last token is the bonus. Greedy and sampling alike: a drawn token never depends on
the draft, so the text is the model's.
"""

from dataclasses import dataclass

from torch import Tensor

from lookahead.decoding.emission import Emission
from lookahead.drafting.tree import DraftTree


@dataclass(frozen=True)
class Acceptance:
    """What one forward yielded.

    Attributes:
        path: the accepted nodes from node 0 down, whose keys and values stay in the cache.
        tokens: the emitted tokens, the bonus last; one for each node of the path.
    """

    path: list[int]
    tokens: list[int]


def accept(tree: DraftTree, logits: Tensor, emission: Emission) -> Acceptance:
    """Walk down the tree along the model's own choices, emitting each.

    Args:
        tree: n nodes.
        logits: [n, V], each node's for the token after it.
        emission: chooses the tokens and knows when the answer is finished.
    """
    tokens: list[int] = []
    here = [0]  # in a parallel draft several nodes can stand for the same tokens
    while True:
        tokens.append(emission.emit(logits[here[0]]))
        if emission.finished:
            break
        below = tree.children_with_token(here, tokens[-1])
        if not below:
            break
        here = below
    return Acceptance(tree.path_to(here[0]), tokens)

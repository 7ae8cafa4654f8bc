r"""Sampling down drafts on the device, without a wait per token or row.

The tokens are drawn one after the other, each from scores of the same shape by the same operations as in
`generate`. Only where a walk goes is computed on the device: as deep as the draft is, whether or not the
model's own tokens leave it earlier. Then the tokens of all rows come back in one copy, and those after a
draft was left are not taken.

    draft     a - b - c        drawn  b x ? ?     the walk left the draft at x
               \- d            taken  b x         the noise of the other two is given back
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookahead.decoding.sampling.choice import INVALID_PROBABILITIES, are_valid
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree


@dataclass(frozen=True)
class Samples:
    """The tokens that were sampled at node 0 of a draft and further down, as far as it goes.

    Only the tokens up to the first that the draft does not have are the model's.

    Attributes:
        tokens: The tokens.
        are_of_numbers: Whether each was drawn from valid probabilities.
    """

    tokens: Sequence[int]
    are_of_numbers: Sequence[bool]

    def __iter__(self) -> Iterator[int]:
        """Yield the tokens, as far as they are asked for.

        Raises:
            RuntimeError: A probability of the next token is infinite, NaN or negative.
        """
        for token, is_of_numbers in zip(self.tokens, self.are_of_numbers, strict=True):
            if not is_of_numbers:
                raise RuntimeError(INVALID_PROBABILITIES)
            yield token


def can_walk(state: GenerationState, logits: Tensor) -> bool:
    """Return whether a state's tokens are sampled on the device of these logits."""
    return state.noise is not None and len(state.rows) == 1 and logits.device.type != "cpu"


def sample_down(
    drafts: Mapping[int, DraftTree], logits: Mapping[int, Tensor], states: Sequence[GenerationState]
) -> dict[int, Samples]:
    """Return, by row, the tokens that are sampled down the rows' drafts; wait for the device once.

    The states are as before, but for their noise, which is to be settled.

    Args:
        drafts: By row, a tree of n nodes.
        logits: By row, [n, V] on a device.
        states: At least one, each of one row.
    """
    rows = [state.rows[0] for state in states]
    places = _on_device([drafts[row] for row in rows], logits[rows[0]].device)
    walks = [
        _walk(drafts[row], logits[row], state, *place)
        for row, state, place in zip(rows, states, places, strict=True)
    ]
    drawn = [part for chosen, _ in walks for part in chosen]
    valid = [part for _, numbers in walks for part in numbers]
    tokens, are_numbers = torch.stack([torch.cat(drawn), torch.stack(valid).long()]).tolist()
    found, begin = {}, 0
    for row, (chosen, _) in zip(rows, walks, strict=True):
        end = begin + len(chosen)
        found[row] = Samples(tokens[begin:end], [bool(number) for number in are_numbers[begin:end]])
        begin = end
    return found


def _walk(
    tree: DraftTree, logits: Tensor, state: GenerationState, tokens: Tensor, parents: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Sample down one draft; return the chosen tokens, each [1], and whether their probabilities are valid.

    Args:
        tree: n nodes.
        logits: [n, V].
        state: Of one row.
        tokens: int64 [n] on the device.
        parents: int64 [n] on the device.
    """
    assert state.noise is not None, "its tokens are not sampled on the device"  # noqa: S101
    depth = min(int(tree.depths.max()), state.remaining - 1)
    here: Tensor | None = None  # in a parallel draft, several nodes can have the same tokens
    chosen, valid, begin = [], [], state.length
    for level in range(depth + 1):
        at = logits[:1] if here is None else logits.index_select(0, here.int().argmax(0, keepdim=True))
        probabilities = state.processed(at).softmax(dim=-1)
        valid.append(are_valid(probabilities))
        chosen.append((probabilities / state.noise.draw(probabilities)).argmax(dim=-1))
        state.write(chosen[-1])
        if level < depth:
            is_below = parents == 0 if here is None else here.index_select(0, parents)
            here = is_below & (tokens == chosen[-1])
    state.forget_after(begin)
    return chosen, valid


def _on_device(trees: Sequence[DraftTree], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return each tree's tokens and parents on the device, int64 [n], by one copy that is not waited for."""
    sizes = [len(tree) for tree in trees]
    table = torch.empty(2, sum(sizes), dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
    for tree, part in zip(trees, table.split_with_sizes(sizes, dim=1), strict=True):
        part[0], part[1] = torch.from_numpy(tree.token_ids), torch.from_numpy(tree.parents)
        part[:, 0] = torch.tensor([-1, 0], device="cpu")  # node 0 is below no node
    moved = table.to(device, non_blocking=True)
    return [(part[0], part[1]) for part in moved.split_with_sizes(sizes, dim=1)]

r"""Sampling down a draft on the device, without a wait per token.

The tokens are drawn one after the other, each from scores of the same shape by the same operations as in
`generate`. Only where the walk goes is computed on the device: as deep as the draft is, whether or not the
model's own tokens leave it earlier. Then all tokens come back in one copy, and those after the draft was left
are not taken.

    draft     a - b - c        drawn  b x ? ?     the walk left the draft at x
               \- d            taken  b x         the noise of the other two is given back
"""

import torch
from torch import Tensor

from lookahead.decoding.sampling.choice import INVALID_PROBABILITIES, are_valid
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree


def can_walk(state: GenerationState, logits: Tensor) -> bool:
    """Return whether a state's tokens are sampled on the device of these logits."""
    return state.noise is not None and len(state.rows) == 1 and logits.device.type != "cpu"


def sample_down(tree: DraftTree, logits: Tensor, state: GenerationState) -> list[int]:
    """Return the tokens that are sampled at node 0 and further down the draft, as far as it goes.

    Only the tokens up to the first that the draft does not have are the model's. The state is as before, but
    for its noise, which is to be settled.

    Args:
        tree: n nodes.
        logits: [n, V] on a device.
        state: Of one row.

    Raises:
        RuntimeError: A probability on the way is infinite, NaN or negative.
    """
    assert state.noise is not None, "its tokens are not sampled on the device"  # noqa: S101
    depth = min(int(tree.depths.max()), state.remaining - 1)
    tokens, parents = _on_device(tree, logits.device) if depth > 0 else (None, None)
    here: Tensor | None = None  # in a parallel draft, several nodes can have the same tokens
    chosen, valid, begin = [], [], state.length
    for level in range(depth + 1):
        at = logits[:1] if here is None else logits.index_select(0, here.int().argmax(0, keepdim=True))
        probabilities = state.processed(at).softmax(dim=-1)
        valid.append(are_valid(probabilities))
        chosen.append((probabilities / state.noise.draw(probabilities)).argmax(dim=-1))
        state.write(chosen[-1])
        if level < depth and tokens is not None and parents is not None:
            is_below = parents == 0 if here is None else here.index_select(0, parents)
            here = is_below & (tokens == chosen[-1])
    state.forget_after(begin)
    found, are_numbers = torch.stack([torch.cat(chosen), torch.stack(valid).long()]).tolist()
    for index, (token, is_number) in enumerate(zip(found, are_numbers, strict=True)):
        if not is_number:
            raise RuntimeError(INVALID_PROBABILITIES)
        if not _is_in(tree, found[:index], token):
            break
    return [int(token) for token in found]


def _is_in(tree: DraftTree, before: list[int], token: int) -> bool:
    """Return whether the draft goes on with a token after those before it."""
    here = [0]
    for taken in before:
        here = tree.children_with_token(here, taken)
    return bool(tree.children_with_token(here, token))


def _on_device(tree: DraftTree, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens and parents on the device, int64 [n], by one copy that is not waited for."""
    table = torch.empty(2, len(tree), dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
    table[0], table[1] = torch.from_numpy(tree.token_ids), torch.from_numpy(tree.parents)
    table[:, 0] = torch.tensor([-1, 0], device="cpu")  # node 0 is below no node
    moved = table.to(device, non_blocking=True)
    return moved[0], moved[1]

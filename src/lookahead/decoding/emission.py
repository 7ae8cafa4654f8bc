"""Choosing tokens exactly as `generate` does: one call of each callback for each emitted token, in order."""

from collections.abc import Callable

import torch
from torch import Tensor

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""Maps the tokens so far [1, L] and the next token's scores [1, V] to new scores [1, V]."""

StoppingCriterion = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor]
"""Tells, from the tokens so far [1, L] and the scores kept, whether the row is finished: bool [1]."""


class Emission:
    """The answer under way: turns logits into tokens, one at a time.

    Args:
        prompt_ids: int64 [1, L].
        max_length: the most tokens, the prompt included; never exceeded.
        process: all logits processors in order.
        is_finished: all stopping criteria; asked once after each token.
        do_sample: draw from the processed distribution, else take its maximum.
        publish: called with each token, int64 [1] on the CPU (a streamer's `put`).
        publish_first: publish a token before the stopping criteria judge it, not after.
        keep_scores: collect the processed scores of each token.
        keep_logits: collect the raw logits of each token.
    """

    def __init__(
        self,
        prompt_ids: Tensor,
        *,
        max_length: int,
        process: LogitsProcessor,
        is_finished: StoppingCriterion,
        do_sample: bool,
        publish: Callable[[Tensor], object] | None = None,
        publish_first: bool = False,
        keep_scores: bool = False,
        keep_logits: bool = False,
    ) -> None:
        self._length = prompt_ids.shape[1]
        self._max_length = max_length
        self._process = process
        self._is_finished = is_finished
        self._do_sample = do_sample
        self._publish = publish
        self._publish_first = publish_first
        self._ids = _with_room(prompt_ids, self._length + 256)
        self.scores: tuple[Tensor, ...] | None = () if keep_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keep_logits else None
        self.finished = False

    @property
    def token_ids(self) -> Tensor:
        """The prompt and what was emitted: int64 [1, L]."""
        return self._ids[:, : self._length]

    @property
    def remaining(self) -> int:
        """How many more tokens the length limit allows."""
        return self._max_length - self._length

    def emit(self, logits: Tensor) -> int:
        """Choose the next token from its raw logits [V], tell everybody, and return it."""
        row = logits[None].to(copy=True, dtype=torch.float32, device=self._ids.device)
        scores = self._process(self.token_ids, row)
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (row,)
        if self._do_sample:
            probabilities = torch.nn.functional.softmax(scores, dim=-1)
            token = torch.multinomial(probabilities, num_samples=1).squeeze(1)
        else:
            token = torch.argmax(scores, dim=-1)
        self._append(token)
        if self._publish is not None and self._publish_first:
            self._publish(token.cpu())
        self.finished = bool(self._is_finished(self.token_ids, self.scores).item()) or self.remaining <= 0
        if self._publish is not None and not self._publish_first:
            self._publish(token.cpu())
        return int(token.item())

    def _append(self, token: Tensor) -> None:
        if self._length == self._ids.shape[1]:
            self._ids = _with_room(self._ids, 2 * self._length)
        self._ids[:, self._length] = token
        self._length += 1


def _with_room(token_ids: Tensor, capacity: int) -> Tensor:
    """Return a longer copy of [1, L], whose views stay valid while tokens are appended."""
    roomy = token_ids.new_zeros(1, capacity)
    roomy[:, : token_ids.shape[1]] = token_ids
    return roomy

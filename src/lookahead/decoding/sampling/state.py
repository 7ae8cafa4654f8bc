"""Choosing tokens exactly as `generate` does: one call of each callback per emitted token, in order."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from lookahead.decoding.sampling.choice import NoiseDraws, TokenChoice, argmax
from lookahead.decoding.sampling.margins import SmallestMargin
from lookahead.drafting.noise import Noise
from lookahead.drafting.tree import DraftTree

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""Maps the tokens so far [B, L] and the next token's scores [B, V] to new scores [B, V]."""

StoppingCriterion = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor]
"""Maps the tokens so far [B, L] and the kept scores to which rows are finished, bool [B]."""


class GenerationState:
    """The answers of rows in lockstep: turns logits into tokens, one per row at a time.

    Args:
        prompt_ids: int64 [B, L].
        rows: The numbers of the rows; 0 to B - 1 if None.
        max_length: Maximum number of tokens, the prompt included.
        process: All logits processors in order.
        is_finished: All stopping criteria; called once after each token.
        choose: Chooses the tokens from the processed scores.
        foresee: Returns the noise that `choose` will draw for the next tokens of the row in this place, if it
            is known.
        pad_token_id: The token that finished rows are padded with while others continue; None to continue
            them with their own tokens, as `generate` does if no criterion ends a row by its tokens.
        max_lead_tokens: How many tokens the rows may be ahead of the row that is furthest behind.
        on_finish: Called once when all rows are finished.
        publish: Called with each step's tokens, int64 [B] on the CPU (a streamer's `put`).
        publish_first: Publish a token before the stopping criteria are called, not after.
        keep_scores: Collect the processed scores of each step.
        keep_logits: Collect the raw logits of each step.
        ends: The tokens that end an answer, if only they and the length end it, the choice is the argmax of
            the raw logits, and no callback reads the scores: then `emit_argmax` may be used. Else None.
        sampled_ends: The same tokens, if the choice is a sample, and the processors wait for no device.
        noise: Draws what `choose` would draw, for samples that are chosen on a device.
    """

    def __init__(
        self,
        prompt_ids: Tensor,
        *,
        rows: tuple[int, ...] | None = None,
        max_length: int,
        process: LogitsProcessor,
        is_finished: StoppingCriterion,
        choose: TokenChoice,
        foresee: Callable[[int], Noise | None] | None = None,
        pad_token_id: int | None = None,
        max_lead_tokens: int | None = None,
        on_finish: Callable[[], None] = lambda: None,
        publish: Callable[[Tensor], object] | None = None,
        publish_first: bool = False,
        keep_scores: bool = False,
        keep_logits: bool = False,
        ends: Collection[int] | None = None,
        sampled_ends: Collection[int] | None = None,
        noise: NoiseDraws | None = None,
    ) -> None:
        self.rows = tuple(range(len(prompt_ids))) if rows is None else rows
        self._length = prompt_ids.shape[1]
        self._max_length = max_length
        self._process = process
        self._is_finished = is_finished
        self._choose = choose
        self._foresee = foresee
        self.pad_token_id = pad_token_id
        self.max_lead_tokens = max_lead_tokens
        self._on_finish = on_finish
        self._publish = publish
        self._publish_first = publish_first
        self._ends = ends
        self._sampled_ends = sampled_ends
        self._noise = noise
        self._ids = _with_room(prompt_ids, self._length + 256)
        self._unwritten: list[list[int]] = []  # tokens of the last steps that are not in `_ids` yet
        self._is_finished_row = [False] * len(prompt_ids)
        self.padded_rows: frozenset[int] = frozenset()
        self.scores: tuple[Tensor, ...] | None = () if keep_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keep_logits else None
        self.finished = False
        self.is_drafted = True  # False once the model's own logits were NaN
        self.margin = SmallestMargin()

    @property
    def token_ids(self) -> Tensor:
        """The prompts and the emitted tokens: int64 [B, L]."""
        if self._unwritten:
            written, self._unwritten = self._unwritten, []
            self._length -= len(written)
            self._append(torch.tensor(written, device=self._ids.device).T)
        ids = self._ids[:, : self._length]
        return ids if len(ids) == 1 else ids.contiguous()  # as in `generate`; one row is contiguous anyway

    def publish_to(self, publish: Callable[[Tensor], object]) -> None:
        """Call `publish` with each step's tokens from now on, int64 [B] on the CPU."""
        self._publish = publish

    def end_by(self, criterion: StoppingCriterion) -> None:
        """End the answer also where one more stopping criterion says so."""
        before, self._ends, self._sampled_ends = self._is_finished, None, None

        def is_finished(token_ids: Tensor, scores: tuple[Tensor, ...] | None) -> Tensor:
            return before(token_ids, scores) | criterion(token_ids, scores)

        self._is_finished = is_finished

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return self._length

    @property
    def remaining(self) -> int:
        """How many more tokens the length limit allows."""
        return self._max_length - self._length

    def foreseen(self) -> dict[int, Noise]:
        """Return, by row, the noise of the next draws, as far as it is known."""
        if self._foresee is None:
            return {}
        found = {row: self._foresee(place) for place, row in enumerate(self.rows)}
        return {row: noise for row, noise in found.items() if noise is not None}

    def emit(self, logits: Tensor) -> list[int]:
        """Choose each row's next token from the raw logits [B, V], call the callbacks, return the tokens."""
        rows = logits.to(copy=True, dtype=torch.float32, device=self._ids.device)
        scores = self._process(self.token_ids, rows)
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (rows,)
        tokens = self._choose(scores)
        if self._choose is argmax:
            padded = [index for index, row in enumerate(self.rows) if row in self.padded_rows]
            self.margin.note(scores, padded)
        if self.pad_token_id is not None and self.padded_rows:
            finished_rows = torch.tensor(self._is_finished_row, device=tokens.device)
            tokens = tokens.masked_fill(finished_rows, self.pad_token_id)
        self._append(tokens[:, None])
        if self._publish is not None and self._publish_first:
            self._publish(tokens.cpu())
        ended = self._is_finished(self.token_ids, self.scores)
        chosen: list[int]
        chosen, ended_rows = torch.stack([tokens, ended.to(tokens)]).tolist()  # one copy from the device
        self._mark_finished(ended_rows)
        if self._publish is not None and not self._publish_first:
            self._publish(torch.tensor(chosen, device="cpu"))
        return chosen

    @property
    def noise(self) -> NoiseDraws | None:
        """The noise of samples that are chosen on a device; None if they are chosen by `emit`."""
        return None if self._sampled_ends is None else self._noise

    def processed(self, logits: Tensor) -> Tensor:
        """Return the processed scores [B, V] of raw logits, after the tokens so far."""
        return self._process(
            self.token_ids, logits.to(copy=True, dtype=torch.float32, device=self._ids.device)
        )

    def write(self, tokens: Tensor) -> None:
        """Write the next tokens [B], which `take` takes or `forget_after` forgets."""
        self._append(tokens[:, None])

    def forget_after(self, length: int) -> None:
        """Forget tokens that were written and not taken."""
        self._length = length

    def take(self, token: int) -> None:
        """Emit a token of a single row that `write` wrote, as `emit` does."""
        self._end_step([token], self._sampled_ends or ())

    @property
    def needs_only_argmax(self) -> bool:
        """Whether each row's next token is the argmax of its raw logits, and no callback reads them."""
        return self._ends is not None

    def emit_argmax(self, argmax: Sequence[int]) -> list[int]:
        """Emit each row's argmax as `emit` does, but without a tensor on the device."""
        pad = self.pad_token_id
        chosen = list(argmax)
        if pad is not None:
            pairs = zip(chosen, self._is_finished_row, strict=True)
            chosen = [pad if is_finished else token for token, is_finished in pairs]
        self._unwritten.append(chosen)
        self._end_step(chosen, self._ends or ())
        return chosen

    def _end_step(self, chosen: list[int], ends: Collection[int]) -> None:
        """Count, publish and check a token of each row, where only some tokens and the length end it."""
        self._length += 1
        if self._publish is not None and self._publish_first:
            self._publish(torch.tensor(chosen, device="cpu"))
        self._mark_finished([token in ends or self.remaining <= 0 for token in chosen])
        if self._publish is not None and not self._publish_first:
            self._publish(torch.tensor(chosen, device="cpu"))

    def _mark_finished(self, ended: Sequence[object]) -> None:
        """Mark the rows that ended with their last token."""
        pairs = zip(self._is_finished_row, ended, strict=True)
        self._is_finished_row = [before or bool(now) for before, now in pairs]
        self.finished = all(self._is_finished_row) or self.remaining <= 0
        if self.finished:
            self._on_finish()
        if self.pad_token_id is not None:
            rows = zip(self.rows, self._is_finished_row, strict=True)
            self.padded_rows = frozenset(row for row, is_finished in rows if is_finished)

    def _append(self, tokens: Tensor) -> None:
        """Write the tokens of one or more steps, [B, steps]."""
        end = self._length + tokens.shape[1]
        if end > self._ids.shape[1]:
            self._ids = _with_room(self._ids, 2 * end)
        self._ids[:, self._length : end] = tokens
        self._length = end


def foreseen(states: Sequence[GenerationState], max_depths: Mapping[int, int]) -> dict[int, Noise]:
    """Return, by row, what is known of the noise of the draws of rows that may have drafts.

    Args:
        states: The states of the rows.
        max_depths: How deep each row's draft may be.
    """
    return {
        row: noise
        for state in states
        if any(max_depths.get(row, 0) > 0 for row in state.rows)
        for row, noise in state.foreseen().items()
    }


def padded_together(states: Sequence[GenerationState], pad_token_id: int) -> Tensor:
    """Return the answers of states of one row each as `generate` returns a batch: int64 [B, longest]."""
    longest = max(state.token_ids.shape[1] for state in states)
    rows = [
        torch.nn.functional.pad(state.token_ids, (0, longest - state.token_ids.shape[1]), value=pad_token_id)
        for state in states
    ]
    return torch.cat(rows)


def _with_room(token_ids: Tensor, capacity: int) -> Tensor:
    """Return a longer copy of [B, L], whose views stay valid while tokens are appended."""
    roomy = token_ids.new_zeros(len(token_ids), capacity)
    roomy[:, : token_ids.shape[1]] = token_ids
    return roomy


def padding_drafts(
    states: Sequence[GenerationState], drafts: Mapping[int, DraftTree]
) -> dict[int, DraftTree]:
    """Return drafts for the rows that are padded, whose next tokens are known.

    Callbacks that see all rows at once also see the logits of finished rows, so these stay in the forward
    pass until all are finished. Their drafts are as deep as the deepest other one, so that no row waits for
    them.

    Args:
        states: The states of the batch.
        drafts: The drafts of the rows that are not padded, by row.
    """
    levels = max((int(draft.depths.max()) for draft in drafts.values()), default=0)
    return {
        row: DraftTree.chain([int(state.token_ids[place, -1])] + [state.pad_token_id] * levels)
        for state in states
        if state.pad_token_id is not None and not state.finished
        for place, row in enumerate(state.rows)
        if row in state.padded_rows
    }

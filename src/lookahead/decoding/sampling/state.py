"""Choosing tokens exactly as `generate` does: one call of each callback for each emitted token, in order."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from lookahead.decoding.sampling.choice import TokenChoice, argmax
from lookahead.decoding.sampling.margins import SmallestMargin
from lookahead.drafting.tree import DraftTree

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""Maps the tokens so far [B, L] and the next token's scores [B, V] to new scores [B, V]."""

StoppingCriterion = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor]
"""Tells, from the tokens so far [B, L] and the scores kept, which rows are finished: bool [B]."""


class GenerationState:
    """Answers under way that advance together: turns logits into tokens, one for each row at a time.

    Args:
        prompt_ids: int64 [B, L].
        rows: the place of each row in the batch, where these are not all of it.
        max_length: the most tokens, the prompt included; never exceeded.
        process: all logits processors in order.
        is_finished: all stopping criteria; asked once after each token.
        choose: picks the tokens from the processed scores.
        pad_token_id: what finished rows go on with while others are under way; None where they go on
            with tokens of their own, as they do in `generate` where nothing ends a row but itself.
        max_lead_tokens: how many tokens the rows may be ahead of the emission that is furthest behind.
        on_finish: called once when all rows are finished.
        publish: called with each step's tokens, int64 [B] on the CPU (a streamer's `put`).
        publish_first: publish a token before the stopping criteria judge it, not after.
        keep_scores: collect the processed scores of each step.
        keep_logits: collect the raw logits of each step.
        ends: the tokens that end an answer, where nothing but they and the length do, the scores are kept
            from nobody, and the likeliest token by the raw logits is the choice: then `emit_chosen` serves.
            None where the callbacks have to be asked.
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
        pad_token_id: int | None = None,
        max_lead_tokens: int | None = None,
        on_finish: Callable[[], None] = lambda: None,
        publish: Callable[[Tensor], object] | None = None,
        publish_first: bool = False,
        keep_scores: bool = False,
        keep_logits: bool = False,
        ends: Collection[int] | None = None,
    ) -> None:
        self.rows = tuple(range(len(prompt_ids))) if rows is None else rows
        self._length = prompt_ids.shape[1]
        self._max_length = max_length
        self._process = process
        self._is_finished = is_finished
        self._choose = choose
        self.pad_token_id = pad_token_id
        self.max_lead_tokens = max_lead_tokens
        self._on_finish = on_finish
        self._publish = publish
        self._publish_first = publish_first
        self._ends = ends
        self._ids = _with_room(prompt_ids, self._length + 256)
        self._unwritten: list[list[int]] = []  # tokens of the last steps that are not among the ids yet
        self._over = [False] * len(prompt_ids)
        self.padded_rows: frozenset[int] = frozenset()
        self.scores: tuple[Tensor, ...] | None = () if keep_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keep_logits else None
        self.finished = False
        self.margin = SmallestMargin()

    @property
    def token_ids(self) -> Tensor:
        """The prompts and what was emitted: int64 [B, L]."""
        if self._unwritten:
            written, self._unwritten = self._unwritten, []
            self._length -= len(written)
            self._append(torch.tensor(written).T.to(self._ids.device))
        ids = self._ids[:, : self._length]
        return ids if len(ids) == 1 else ids.contiguous()  # as `generate` has them; one row is so anyway

    @property
    def remaining(self) -> int:
        """How many more tokens the length limit allows."""
        return self._max_length - self._length

    def emit(self, logits: Tensor) -> list[int]:
        """Choose each row's next token from its raw logits [B, V], tell everybody, and return them."""
        rows = logits.to(copy=True, dtype=torch.float32, device=self._ids.device)
        scores = self._process(self.token_ids, rows)
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (rows,)
        tokens = self._choose(scores)
        if self._choose is argmax:
            self.margin.see(scores, [at for at, row in enumerate(self.rows) if row in self.padded_rows])
        if self.pad_token_id is not None and self.padded_rows:
            is_over = torch.tensor(self._over, device=tokens.device)
            tokens = tokens.masked_fill(is_over, self.pad_token_id)
        self._append(tokens[:, None])
        if self._publish is not None and self._publish_first:
            self._publish(tokens.cpu())
        ended = self._is_finished(self.token_ids, self.scores)
        chosen: list[int]
        chosen, over = torch.stack([tokens, ended.to(tokens)]).tolist()  # one copy from the device for both
        self._judge(over)
        if self._publish is not None and not self._publish_first:
            self._publish(torch.tensor(chosen))
        return chosen

    @property
    def takes_chosen(self) -> bool:
        """Whether each row's next token is the likeliest by its raw logits, and nobody looks at them."""
        return self._ends is not None

    def emit_chosen(self, argmax: Sequence[int]) -> list[int]:
        """Emit each row's likeliest token and tell everybody: as `emit`, without a tensor on the device."""
        ends, pad = self._ends or (), self.pad_token_id
        chosen = list(argmax)
        if pad is not None:
            chosen = [pad if over else token for token, over in zip(chosen, self._over, strict=True)]
        self._unwritten.append(chosen)
        self._length += 1
        if self._publish is not None and self._publish_first:
            self._publish(torch.tensor(chosen))
        self._judge([token in ends or self.remaining <= 0 for token in chosen])
        if self._publish is not None and not self._publish_first:
            self._publish(torch.tensor(chosen))
        return chosen

    def _judge(self, ended: Sequence[object]) -> None:
        """Take note of which rows ended with their last token."""
        self._over = [over or bool(now) for over, now in zip(self._over, ended, strict=True)]
        self.finished = all(self._over) or self.remaining <= 0
        if self.finished:
            self._on_finish()
        if self.pad_token_id is not None:
            over_of = zip(self.rows, self._over, strict=True)
            self.padded_rows = frozenset(row for row, over in over_of if over)

    def _append(self, tokens: Tensor) -> None:
        """Write the tokens of some steps, [B, steps]."""
        end = self._length + tokens.shape[1]
        if end > self._ids.shape[1]:
            self._ids = _with_room(self._ids, 2 * end)
        self._ids[:, self._length : end] = tokens
        self._length = end


def padded_together(states: Sequence[GenerationState], pad_token_id: int) -> Tensor:
    """Return the answers of emissions of one row each as `generate` returns a batch: int64 [B, longest]."""
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
    """Return drafts for the rows that are padded: what they go on with is certain.

    Callbacks that see all rows at once see the logits of finished ones too, so that these stay in the
    forward until all are finished. Such a draft is as deep as the deepest of the others, so that no row
    waits for it.

    Args:
        states: those of the batch.
        drafts: of the rows that are not padded, by row.
    """
    levels = max(int(draft.depths.max()) for draft in drafts.values())
    return {
        row: DraftTree.chain([int(state.token_ids[place, -1])] + [state.pad_token_id] * levels)
        for state in states
        if state.pad_token_id is not None and not state.finished
        for place, row in enumerate(state.rows)
        if row in state.padded_rows
    }

"""A transformers model as `loop.step` sees it; `CallStepModel` adds the prefill that `decode` needs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.decoding.logits import TreeLogits
from lookahead.decoding.logits_summary import summarize
from lookahead.decoding.loop import PromptPart
from lookahead.drafting.tree import DraftTree
from lookahead.errors import UnsupportedModelError
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.changes import TemporaryChanges
from lookahead.hf.compat.fingerprint.watch import ModelWatch
from lookahead.hf.compat.generation import switch_experts
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.runner import Row, StepBatch
from lookahead.hf.steps.runners import StepRunners
from lookahead.hf.steps.verification import Verification, VerificationMode

OnProgress = Callable[[int, int], None]
"""Called with the tokens of prompts that have been read, and those that are to be read in all."""
PROMPT_CHUNK_TOKENS = 512
"""Tokens of one forward pass over prompts: enough for the weights to be read at little cost."""
_NO_LOCK = nullcontext()
_ANY_DEPTH = 1 << 30
_FIRST_CAPACITY = 512
"""Initial slots per row besides the prompt; the arena grows when they are full."""
_FIRST_CAPACITY_OF_GRAPHS = 4096
"""The same with CUDA graphs, where growing means capturing the steps again."""
_MAX_TOKENS_OF_COPIED_EXPERTS = 2
"""Up to so many tokens, copying their experts' weights reads no more than grouped products do."""


class TransformersStepModel:
    """The forward passes and the cache of rows, which are added and removed between steps.

    Args:
        model: A decoder-only model.
        traits: Its traits.
        layout: How its layers see the past.
        verification: How its drafts are verified; `LibraryStepModel` serves plain mode.
        max_nodes: Upper bound on the nodes of a draft tree.
        max_rows: Row slots.
        prompt_slots: Slots per row to allocate for prompts.
        max_slots: Upper bound on the slots of a row, if known.
        graphs: The captured steps of models; None captures nothing.
        lock: Held during each forward pass, because verifying a tree temporarily changes some models.
        watch: Notices that the model changes between steps; None if it does not.
        runs_callers_code: Whether code of the caller's runs between steps, which may change the model.
        is_exclusive: Whether no other thread changes the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        traits: ModelTraits,
        layout: AttentionLayout,
        *,
        verification: Verification,
        max_nodes: int,
        max_rows: int = 1,
        prompt_slots: int = 0,
        max_slots: int | None = None,
        graphs: CapturedModels | None = None,
        lock: AbstractContextManager[Any] = _NO_LOCK,
        watch: ModelWatch | None = None,
        runs_callers_code: bool = True,
        is_exclusive: bool = False,
    ) -> None:
        is_tree = verification.mode is VerificationMode.TREE
        self.model = model
        self.traits = traits
        self.verification = verification
        self._limits = traits.limits if is_tree else DraftLimits.of(model, kept=layout.kept)
        self._max_nodes = max_nodes
        self._lock = lock
        self._rows: dict[int, Row] = {}
        self._runners = StepRunners(
            model,
            traits,
            layout,
            verification,
            graphs=graphs,
            watch=watch,
            is_thorough=runs_callers_code,
            is_exclusive=is_exclusive,
        )
        self._is_followed = False
        first = _FIRST_CAPACITY_OF_GRAPHS if self._runners.is_captured else _FIRST_CAPACITY
        capacity = prompt_slots + first + max(max_nodes, verification.fixed_width or 1)
        self.cache = ArenaCache(
            layout.kept,
            capacity if max_slots is None else min(capacity, max_slots),
            layout.borrowing,
            max_slots=max_slots,
            max_rows=max_rows,
            allocate=self._runners.allocate,
        )

    def add(
        self, row: int, prompt: Sequence[int], *, chunk: int = PROMPT_CHUNK_TOKENS, max_logits: int = 1
    ) -> Tensor:
        """Add a row and read its prompt; return the logits after its last tokens, [k, V].

        Args:
            row: A number that no other row has.
            prompt: At least one token.
            chunk: Tokens of one forward pass.
            max_logits: For how many of the prompt's last tokens logits are wanted: k, or all tokens of a
                shorter prompt.

        Raises:
            ValueError: The row is there already, or the prompt is empty.
            UnsupportedModelError: The model does not let rows differ in length, or computes a token
                otherwise when the text behind it grows.
        """
        self.begin(row, prompt)
        try:
            return self.read({row: prompt}, chunk=chunk, max_logits=max_logits)[row]
        except BaseException:
            self.remove(row)
            raise

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Add a row whose prompt is read later.

        Raises:
            ValueError: The row is there already, or the prompt is empty.
            UnsupportedModelError: As for `add`.
        """
        self._check_row(row, prompt)
        self._rows[row] = Row(self.cache.arena.add_row())

    @torch.no_grad()
    def read(
        self,
        prompts: Mapping[int, Sequence[int]],
        *,
        chunk: int = PROMPT_CHUNK_TOKENS,
        max_logits: int = 1,
        on_progress: OnProgress | None = None,
    ) -> dict[int, Tensor]:
        """Read prompts after the texts of their rows, in chunks; return logits [k, V] by row, as `add` does.

        A chunk holds the next tokens of one prompt after another. A prompt's part is a chain of which every
        node is kept.

        Args:
            prompts: By row, at least one token each.
            chunk: Tokens of one forward pass.
            max_logits: As for `add`.
            on_progress: Called after each chunk with the tokens read so far, and those of all prompts.
        """
        begins = dict.fromkeys(prompts, 0)
        wanted = {row: max(0, len(prompt) - max_logits) for row, prompt in prompts.items()}
        found: dict[int, list[Tensor]] = {row: [] for row in prompts}
        total = sum(map(len, prompts.values()))
        while parts := _next_parts(prompts, begins, chunk):
            self._follow_model(is_thorough=on_progress is not None and any(begins.values()))
            self._is_followed = False
            logits_of = {
                row: max(0, begins[row] + len(part) - max(begins[row], wanted[row]))
                for row, part in parts.items()
            }
            for row, logits in self._read_chunk(parts, logits_of).items():
                begins[row] += len(parts[row])
                found[row].append(logits)
            if on_progress is not None:
                on_progress(sum(begins.values()), total)
        if on_progress is not None:  # which may have changed the model
            self._follow_model(is_thorough=True)
        return {row: torch.cat(logits) for row, logits in found.items()}

    def append_text(self, row: int, copies: Sequence[list[Tensor]]) -> None:
        """Append to a row what `KVArena.copy_text` copied from the same tokens after the same text."""
        found = self._rows[row]
        self.cache.arena.append_text(found.slot, copies)
        found.position += sum(copy[0].shape[2] for copy in copies)

    def copy_text(self, row: int, begin: int, end: int) -> list[Tensor]:
        """Return copies of a row's keys and values of some tokens."""
        return self.cache.arena.copy_text(self._rows[row].slot, begin, end)

    def length_of(self, row: int) -> int:
        """Return how many tokens a row holds."""
        return self.cache.arena.lengths[self._rows[row].slot]

    def remove(self, row: int) -> None:
        """Forget a row and free its row slot; nothing is copied."""
        self.cache.arena.remove_row(self._rows.pop(row).slot)

    @torch.no_grad()
    def forward(self, drafts: Mapping[int, DraftTree]) -> TreeLogits:
        """Verify a draft tree of each row after the row's text; return logits [n, V] by row.

        Rows without a draft are not in this step.
        """
        self._follow_model()
        self._is_followed = False
        self._move_together(max(map(len, drafts.values())))
        order = sorted(drafts, key=lambda row: self._rows[row].slot)
        rows = [self._rows[row] for row in order]
        batch = StepBatch(rows, [drafts[row] for row in order], self.cache)
        changes = TemporaryChanges()
        with self._lock, changes, changes:
            self._switch_experts(changes, batch.width * len(rows))
            found = self._runners.run(batch, [row.slot for row in rows])
        summary = found.summary
        if summary is None and isinstance(found.logits, Tensor) and found.logits.device.type != "cpu":
            summary = summarize(found.logits).cpu()  # waits: the forward pass's time is counted as its own
        logit_rows = dict(zip(order, found.logit_rows, strict=True))
        flags = {"is_usual": found.is_usual, "is_captured": found.is_captured}
        return TreeLogits(drafts, logit_rows, found.logits, summary, **flags)

    @torch.no_grad()
    def forward_with_parts(
        self, drafts: Mapping[int, DraftTree], parts: Mapping[int, PromptPart]
    ) -> Mapping[int, Tensor]:
        """Verify drafts, and read and keep parts of the prompts of other rows; return logits by row.

        Where rows are ragged, all is done in one forward pass, else one part is read after the other.
        """
        self._follow_model()
        trees = {**drafts, **{row: DraftTree.chain(part.tokens) for row, part in parts.items()}}
        self._move_together(max(map(len, trees.values())))
        logits = self._read_together(trees, drafts, parts) if self._runners.is_ragged else None
        if logits is not None:
            self._is_followed = False
            return logits
        of_parts = {
            row: self._read_chunk({row: part.tokens}, {row: part.max_logits})[row]
            for row, part in parts.items()
        }
        return {**self.forward(drafts), **of_parts} if drafts else of_parts

    def _read_together(
        self,
        trees: Mapping[int, DraftTree],
        drafts: Mapping[int, DraftTree],
        parts: Mapping[int, PromptPart],
    ) -> dict[int, Tensor] | None:
        """Return the logits of one forward pass over drafts and parts; None if no runner does that."""
        order = sorted(trees, key=lambda row: self._rows[row].slot)
        rows = [self._rows[row] for row in order]
        batch = StepBatch(rows, [trees[row] for row in order], self.cache)
        wanted = [len(trees[row]) if row in drafts else parts[row].max_logits for row in order]
        with self._lock:
            logits = self._runners.read(batch, [row.slot for row in rows], wanted)
        if logits is None:
            return None
        self.keep({row: range(len(part.tokens)) for row, part in parts.items()})
        return dict(zip(order, logits, strict=True))

    def set_callers_code(self, *, runs: bool) -> None:
        """Set whether code of the caller's runs between steps from now on."""
        self._runners.is_thorough = runs

    def are_logits_current(self) -> bool:
        """Return whether the last logits are those of the model as it is now: a callback may change it."""
        return not self._runners.has_model_changed()

    def keep(self, paths: Mapping[int, Sequence[int]]) -> None:
        """Keep in the cache only the nodes of each row's path, of the trees verified last."""
        self.cache.arena.keep({self._rows[row].slot: path for row, path in paths.items()})
        for row, path in paths.items():
            self._rows[row].position += len(path)

    def max_draft_depth(self, row: int) -> int:
        """Return how deep a row's draft may go within the model's positions; beyond them, steps are plain."""
        self._follow_model()
        if not self._runners.allows_drafts:
            return 0
        found = self._rows[row]
        position = found.position + found.max_position_shift
        slot = self.cache.arena.lengths[found.slot]
        depth = self._limits.max_draft_depth(position, slot, self._max_nodes)
        return _ANY_DEPTH if depth is None else depth

    def close(self) -> None:
        """Give back borrowed memory."""
        self._runners.close()

    @property
    def rows(self) -> Sequence[int]:
        """The rows, in the order in which they were added."""
        return list(self._rows)

    @property
    def runner_name(self) -> str:
        """Name of the steps' runner; empty for the model's own code in the drafts' width."""
        return "captured" if self.is_captured else self.verification.runner_name

    @property
    def is_ragged(self) -> bool:
        """Whether each row of a step has its own number of nodes; else that of the largest draft."""
        return self._runners.is_ragged

    @property
    def is_captured(self) -> bool:
        """Whether steps are captured in CUDA graphs, each shape at its second use."""
        return self._runners.is_captured

    @property
    def replay_speedup(self) -> float | None:
        """How much faster captured steps are than the model's own code; None if that was not measured."""
        return self._runners.replay_speedup

    def _read_chunk(
        self, parts: Mapping[int, Sequence[int]], logits_of: Mapping[int, int]
    ) -> dict[int, Tensor]:
        """Read the next tokens of rows; return logits by row."""
        order = sorted(parts, key=lambda row: self._rows[row].slot)
        rows = [self._rows[row] for row in order]
        slots = [row.slot for row in rows]
        batch = StepBatch(rows, [DraftTree.chain(parts[row]) for row in order], self.cache)
        with self._lock:
            logits = self._runners.read(batch, slots, [logits_of[row] for row in order])
        if logits is None:
            alone = [self._read_chunk({row: parts[row]}, logits_of) for row in order]
            return {row: of_row for read in alone for row, of_row in read.items()}
        self.cache.arena.keep(
            {row.slot: range(len(parts[name])) for name, row in zip(order, rows, strict=True)}
        )
        for name, row in zip(order, rows, strict=True):
            row.position += len(parts[name])
        return dict(zip(order, logits, strict=True))

    def _switch_experts(self, changes: TemporaryChanges, tokens: int) -> None:
        """Compute a step of a mixture of experts as `generate` computes it, until the changes are undone.

        On a CUDA device that copies the weights of each token's experts. So steps of more than a few tokens
        go on as the prompt does, by products of groups.
        """
        if self.model.device.type != "cuda" or tokens <= _MAX_TOKENS_OF_COPIED_EXPERTS:
            switch_experts(self.model, changes)

    def _move_together(self, width: int) -> None:
        """Move rows into free row slots below them, where that saves more than it costs.

        A model's own code attends to rows that are not neighbours in copies, and a CUDA graph computes the
        row slots between them, at each step. When the arena grows, row slots above the others cost memory.
        The compiled CPU decoder reads any rows in place; a fixed width keeps all row slots in each step.
        """
        arena = self.cache.arena
        leaves_gaps = self.verification.is_compiled and not arena.must_grow(width)
        if leaves_gaps or self.verification.fixed_width is not None:
            return
        for row in sorted(self._rows.values(), key=lambda row: row.slot, reverse=True):
            if arena.lowest_free_row > row.slot:
                break
            target = arena.lowest_free_row
            arena.move_row(row.slot, target)
            row.slot = target

    def _follow_model(self, *, is_thorough: bool = False) -> None:
        """Look, once per step, whether the model changed since the last one."""
        if not self._is_followed:
            with self._lock:
                self._runners.follow_model(is_thorough=is_thorough)
            self._is_followed = True

    def _check_row(self, row: int, prompt: Sequence[int]) -> None:
        if row in self._rows or not prompt:
            message = (
                f"row {row} with a prompt of {len(prompt)} tokens: give a new row and at least one token"
            )
            raise ValueError(message)
        if self._limits.rope_switch is not None or self._limits.rope_growth is not None:
            message = (
                f"{type(self.model).__name__}'s rotary frequencies change with the length of the text; "
                "leave its requests to generate"
            )
            raise UnsupportedModelError(message)
        may_differ = self.verification.rows_may_differ and not self._limits.counts_slots_somewhere
        if self._rows and (not may_differ or self.traits.bias):
            message = (
                f"{type(self.model).__name__} does not support rows of different lengths; "
                "serve its requests one at a time"
            )
            raise UnsupportedModelError(message)


def _next_parts(
    prompts: Mapping[int, Sequence[int]], begins: Mapping[int, int], chunk: int
) -> dict[int, Sequence[int]]:
    """Return the next `chunk` tokens of prompts, by row; the first `begins` tokens have been read."""
    parts: dict[int, Sequence[int]] = {}
    for row, prompt in prompts.items():
        if begins[row] < len(prompt) and chunk > 0:
            parts[row] = prompt[begins[row] : begins[row] + chunk]
            chunk -= len(parts[row])
    return parts

"""`Proposer`: drafts for vLLM from the draft memory.

vLLM makes one in each worker of the last pipeline stage and calls `propose` after each step. The drafts are
chains, as long as they pay for all requests of the step together.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.budget.linear import LinearBudget
from lookahead.drafting.tree import DraftTree
from lookahead.errors import LookaheadError
from lookahead.integrations.open_requests import OpenRequests
from lookahead.integrations.options import IntegrationOptions
from lookahead.integrations.shared_memory import ReplicaMemory, open_memory
from lookahead.integrations.vllm.request_options import RequestOptions
from lookahead.integrations.vllm.rows import RowKeys
from lookahead.integrations.vllm.runner import BoundRunner, StepView

_log = logging.getLogger("lookahead.integrations.vllm")
_SALT_SCHEDULER = "lookahead.integrations.vllm.SaltScheduler"
_MAX_DRAFT_TOKENS = 64


class Proposer:
    """vLLM's `custom_class` proposer.

    Settings are in vLLM's `additional_config`, under "lookahead": see `IntegrationOptions`.

    Args:
        vllm_config: vLLM's configuration.

    Raises:
        ConfigError: A setting is not allowed.
        MemoryFileError: The memory file is damaged, or of another vocabulary.

    Attributes:
        memory: The memory; None in workers whose drafts vLLM does not use.
        budget: What steps take, and how much is drafted.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._options = IntegrationOptions.of((vllm_config.additional_config or {}).get("lookahead"))
        self._max_tokens = min(vllm_config.speculative_config.num_speculative_tokens, _MAX_DRAFT_TOKENS)
        self._max_model_len: int = vllm_config.model_config.max_model_len
        self._end_tokens = _end_tokens(vllm_config.model_config)
        self.memory: ReplicaMemory | None = None
        self.budget = LinearBudget()
        if not _drafts_count():
            return
        self.memory = open_memory(
            _for_this_engine(self._options, vllm_config.parallel_config),
            vocabulary_size=vllm_config.model_config.get_vocab_size(),
        )
        self._requests = OpenRequests(self.memory.memory.store, mode=DraftMode.SINGLE)
        self.memory.before_close = self._requests.close_all
        self._runner = BoundRunner.find()
        self._rows = RowKeys()
        self._left = self._other_seconds = 0.0
        self._planned: tuple[int, int] | None = None  # rows and drafts of the next step, as proposed
        if vllm_config.scheduler_config.scheduler_cls is None:
            # In time where engine and worker are one process; else the user gives it.
            vllm_config.scheduler_config.scheduler_cls = _SALT_SCHEDULER

    def load_model(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is no draft model."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        **_: Any,
    ) -> list[list[int]]:
        """Return the draft of each row, empty for none.

        Args:
            sampled_token_ids: The new tokens of each row; none while its prompt is read.
            num_tokens_no_spec: int [B], the length of each row's text, new tokens included.
            token_ids_cpu: int32 [B, max_model_len], the texts.
        """
        rows = len(sampled_token_ids)
        if self.memory is None:
            return [[] for _ in range(rows)]
        begin = time.perf_counter()
        view = None if self._runner is None else self._runner.take()
        self._observe(view, sampled_token_ids, begin)
        texts: list[Int32Array | None] = [
            token_ids_cpu[row, : int(num_tokens_no_spec[row])] if sampled else None
            for row, sampled in enumerate(sampled_token_ids)
        ]
        if view is None:
            keys = self._learn_by_content(texts, sampled_token_ids)
        else:
            keys = self._learn_by_id(texts, view)
        drafts = self._chosen(self._proposed(keys, texts), rows)
        self._left = time.perf_counter()
        self._other_seconds = self._left - begin
        self._planned = (rows, sum(map(len, drafts)))
        return drafts

    def _learn_by_id(self, texts: Sequence[Int32Array | None], view: StepView) -> list[Hashable | None]:
        """Learn the step's tokens of requests that the runner names; end those that it has left."""
        for key in self._requests.keys():  # noqa: SIM118  it is no mapping
            if key not in view.requests:
                self._requests.close(key)
        keys: list[Hashable | None] = list(view.request_ids[: len(texts)])
        for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
            if text is None or key is None:
                keys[row] = None
                continue
            try:
                self._learn(key, text, view.requests[str(key)])
            except LookaheadError as error:
                self._give_up(key, error)
                keys[row] = None
        return keys

    def _learn(self, key: Hashable, text: Int32Array, state: Any) -> None:
        if key not in self._requests:
            options = RequestOptions.of(
                state.sampling_params,
                default_namespace=self._options.default_namespace,
                remember=self._options.remember,
            )
            self._requests.open(
                key,
                text[: state.num_prompt_tokens],
                namespace=options.namespace,
                reads=options.reads,
                remember=options.remember,
                stop_tokens=options.stop_tokens,
                max_tokens=options.max_tokens,
            )
        # what came in steps without a call is learned, too
        self._requests.learn(key, text[self._requests[key].length :])

    def _learn_by_content(
        self, texts: Sequence[Int32Array | None], sampled: Sequence[list[int]]
    ) -> list[Hashable | None]:
        """Learn the step's tokens of requests that are recognised by their texts."""
        before = [
            None if text is None else text[: len(text) - len(new)]
            for text, new in zip(texts, sampled, strict=True)
        ]
        keys = self._rows.step(before)
        for key in self._requests.keys():  # noqa: SIM118  it is no mapping
            if key not in keys:
                self._requests.close(key)
        for row, (key, text, prompt) in enumerate(zip(keys, texts, before, strict=True)):
            if key is None or text is None or prompt is None:
                continue
            try:
                if key not in self._requests:
                    self._requests.open(
                        key,
                        prompt,
                        namespace=self._options.default_namespace,
                        remember=self._options.remember,
                        stop_tokens=self._end_tokens,
                    )
                self._requests.learn(key, text[self._requests[key].length :])
            except LookaheadError as error:
                self._give_up(key, error)
                keys[row] = None
            self._rows.note(key, text)
        return keys

    def _give_up(self, key: Hashable, error: LookaheadError) -> None:
        """Draft nothing for a request whose tokens are none, such as placeholders of embeddings."""
        self._requests.close(key)
        _log.debug("no drafts for the request %s: %s", key, error)

    def _proposed(
        self, keys: Sequence[Hashable | None], texts: Sequence[Int32Array | None]
    ) -> dict[int, DraftTree]:
        proposed = {}
        for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
            if key is None or text is None:
                continue
            tree = self._requests.propose(key, min(self._max_tokens, self._max_model_len - len(text) - 1))
            if tree is not None:
                proposed[row] = tree
        return proposed

    def _chosen(self, proposed: dict[int, DraftTree], rows: int) -> list[list[int]]:
        sizes = [len(tree) - 1 for tree in proposed.values()]
        if self._options.budget == "auto":
            sizes = self.budget.sizes(rows, [tree.probabilities[1:] for tree in proposed.values()])
        drafts: list[list[int]] = [[] for _ in range(rows)]
        for (row, tree), size in zip(proposed.items(), sizes, strict=True):
            drafts[row] = tree.token_ids[1 : 1 + size].tolist()
        return drafts

    def _observe(self, view: StepView | None, sampled: Sequence[list[int]], now: float) -> None:
        """Learn what the step took. Without the runner, only steps that were as proposed tell."""
        rows, emitted = len(sampled), sum(map(len, sampled))
        if view is not None:
            drafts, tokens, seconds = view.draft_tokens, view.scheduled_tokens, now - view.began
        elif self._planned is not None and self._planned[0] == rows and all(sampled):
            drafts, tokens, seconds = self._planned[1], sum(self._planned), now - self._left
        else:
            return
        is_pure = all(sampled) and tokens == rows + drafts
        self.budget.observe(
            tokens,
            seconds,
            is_drafted=drafts > 0,
            emitted=emitted if is_pure else None,
            other_seconds=self._other_seconds,
        )


def _drafts_count() -> bool:
    """Return whether vLLM uses this worker's drafts: it asks the first rank of the last pipeline stage."""
    from vllm.distributed import parallel_state  # noqa: PLC0415  of vLLM's process alone

    groups = ("get_tp_group", "get_pcp_group")
    try:
        return all(getattr(parallel_state, name)().rank_in_group == 0 for name in groups)
    except (AttributeError, AssertionError):  # no such groups: one worker
        return True


def _for_this_engine(options: IntegrationOptions, parallel_config: Any) -> IntegrationOptions:
    """Return the options with a memory file of its own for each data-parallel engine."""
    rank = parallel_config.data_parallel_rank if parallel_config.data_parallel_size > 1 else 0
    if rank == 0 or options.memory_file is None:
        return options
    path = Path(options.memory_file)
    return replace(options, memory_file=str(path.with_stem(f"{path.stem}-{rank}")))


def _end_tokens(model_config: Any) -> frozenset[int]:
    """Return the tokens that end an answer, for requests whose parameters are not known."""
    ends = model_config.try_get_generation_config().get("eos_token_id")
    if ends is None:
        ends = getattr(model_config.hf_config, "eos_token_id", None)
    return frozenset(np.atleast_1d([] if ends is None else ends).astype(int).tolist())

"""`RowRunner`: a model whose requests are rows that join and leave between steps."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.decoding import loop
from lookahead.decoding.acceptance import Acceptance
from lookahead.decoding.loop import PromptPart
from lookahead.drafting.drafter import BatchDrafter, RequestDrafter
from lookahead.drafting.growth.candidates import GUESSED, LUCKY, NOT_DRAFTED, OWN, RECYCLED, SHARED
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.engine.events import TokenSource
from lookahead.engine.prefix_cache import BLOCK_TOKENS, PrefixCache
from lookahead.engine.protocol import Progress
from lookahead.engine.request import Request
from lookahead.engine.scheduler import StepPlan
from lookahead.engine.settings import EngineSettings
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.serving.request_state import RequestState
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.stats import GenerationStats

_SOURCES = {
    OWN: TokenSource.PROMPT,
    SHARED: TokenSource.MEMORY,
    RECYCLED: TokenSource.GUESS,
    GUESSED: TokenSource.GUESS,
    LUCKY: TokenSource.GUESS,
    NOT_DRAFTED: TokenSource.PLAIN,
}

_TRIAL_ROW = -1
"""No request has this number."""


class RowRunner:
    """The rows of an engine's requests, their keys and values, and their drafts.

    Args:
        model: A model whose rows may differ in length.
        tokenizer: Its tokenizer, for stop strings.
        config: How drafts are made and verified.
        memory: The draft memory.
        settings: Rows, and memory for keys and values.
        profiles: What is known about models.
        layout: How the model's layers see the past.
        verification: How its drafts are verified.
        max_request_tokens: The most tokens of prompt and answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        config: LookaheadConfig,
        memory: DraftMemory,
        settings: EngineSettings,
        profiles: ModelProfiles,
        layout: AttentionLayout,
        verification: Verification,
        max_request_tokens: int,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._config, self._memory = config, memory
        self.max_rows = settings.max_rows
        self.max_request_tokens = max_request_tokens
        self._keeps_prefixes = settings.prefix_cache
        self._draft_mode = (
            config.draft_mode if verification.mode is VerificationMode.TREE else DraftMode.SINGLE
        )
        max_nodes = profiles.max_nodes(verification, 1)
        self._step_model = TransformersStepModel(
            model,
            profiles.traits(model),
            layout,
            verification=verification,
            max_nodes=max_nodes,
            max_rows=settings.max_rows,
            max_slots=max_request_tokens + max(max_nodes, verification.fixed_width or 1),
            graphs=CapturedModels() if config.cuda_graphs else None,
            lock=profiles.lock(model),
            watch=profiles.watch(model),
            runs_callers_code=False,
            is_exclusive=True,
        )
        self._controller = profiles.controller(model, verification, self._step_model.runner_name)
        self._drafter = BatchDrafter(
            self._controller, recycles=memory.store.recycles, is_ragged=self._step_model.is_ragged
        )
        self._requests: dict[int, RequestState] = {}  # those that have a row
        self._prefixes: PrefixCache[list[Tensor]] = PrefixCache()
        self._max_prefix_tokens = 0
        self.stats = GenerationStats()
        self._read_one_token()
        self.max_cached_tokens = settings.cache_bytes // self._step_model.cache.arena.bytes_per_token

    def prepare(self, request: Request) -> RequestState:
        """Return a request's state before it has a row; called in any thread.

        Raises:
            LookaheadError: The model cannot serve the request.
        """
        return RequestState.of(self._model, request, self._tokenizer)

    @torch.no_grad()
    def begin(self, request_id: int, state: RequestState) -> int:
        """Give a request a row; return how many of its tokens the row holds, from the prefix cache."""
        request = state.request
        state.to_read = state.text_ids[:-1] if state.has_answer else list(request.prompt_ids)
        self._step_model.begin(request_id, state.to_read)
        self._requests[request_id] = state
        state.generation.rows = (request_id,)
        if not state.is_known:  # after a preemption it is still known
            drafter = RequestDrafter(
                self._memory.store,
                branch_length=self._config.branch_length,
                mode=self._draft_mode,
                namespace=request.namespace,
                reads=request.reads,
                predictions=request.predictions,
                remember=request.remember,
            )
            self._drafter.add(request_id, drafter, state.to_read)
            state.is_known = True
        # Where the prompt's logits are wanted, all of it is read.
        reuses = self._keeps_prefixes and not state.wants_prompt_logits
        blocks = self._prefixes.find(request.namespace, state.to_read) if reuses else []
        if blocks:
            self._step_model.append_text(request_id, blocks)
        return len(blocks) * BLOCK_TOKENS

    @torch.no_grad()
    def step(self, plan: StepPlan, publish: Callable[[int, Progress], bool]) -> Mapping[int, Progress]:
        """Do one step; return what it did for each request of the plan."""
        del publish  # each step ends with its progress
        parts = {request_id: self._part(request_id, tokens) for request_id, tokens in plan.reads.items()}
        states = [self._requests[request_id].generation for request_id in plan.decodes]
        # A request's processor may do anything, also to the model.
        runs_code = any(state.call.runs_callers_code for state in self._requests.values())
        self._step_model.set_callers_code(runs=runs_code)
        failures: dict[int, Exception] = {}
        accepted = loop.step(
            self._step_model,
            self._drafter,
            states,
            self.stats,
            parts=parts,
            max_draft_tokens=plan.max_draft_tokens,
            failures=failures,
        )
        return {
            row: self._progress(row, accepted.get(row) or self._begun(row, parts[row]))
            if row not in failures
            else Progress(error=failures[row])
            for row in plan.requests
        }

    def release(self, request_id: int) -> None:
        """Take a request's row away; its state stays as it is."""
        del self._requests[request_id]
        self._step_model.remove(request_id)

    def end(self, request_id: int, state: RequestState) -> None:
        """Forget a request, with its row if it has one; what its row holds goes to the prefix cache."""
        if state.is_known:
            self._drafter.remove(request_id)
            state.is_known = False
        if request_id in self._requests:
            try:
                self._keep_prefix(request_id)
            finally:
                self.release(request_id)

    def shrink_prefixes(self, max_tokens: int) -> None:
        """Let the prefix cache hold at most so many tokens."""
        self._max_prefix_tokens = max_tokens
        self._prefixes.shrink(max_tokens)

    @property
    def prefix_tokens(self) -> int:
        """Tokens that the prefix cache holds."""
        return self._prefixes.tokens

    def close(self) -> None:
        """Forget everything."""
        self._drafter.close()
        self._prefixes.clear()
        self._step_model.close()

    def _part(self, request_id: int, tokens: int) -> PromptPart:
        """Return the next tokens of a request's prompt."""
        state = self._requests[request_id]
        begin = self._step_model.length_of(request_id)
        part = state.to_read[begin : begin + tokens]
        on_logits = partial(state.note_prompt_logits, begin) if state.wants_prompt_logits else None
        max_logits = 0 if on_logits is None else len(part)
        if begin + len(part) < len(state.to_read) or state.has_answer:
            return PromptPart(part, max_logits, on_logits=on_logits)
        max_logits = max(max_logits, 1, self._config.recycle_prompt_tokens)
        return PromptPart(part, max_logits, state.generation, on_logits)

    def _begun(self, row: int, part: PromptPart) -> Acceptance:
        """Return what reading a part of a prompt emitted: the answer's first token, if the prompt ended."""
        if part.state is None:
            return Acceptance([0], [])
        return Acceptance([0], [int(self._requests[row].generation.token_ids[0, -1])])

    def _progress(self, row: int, accepted: Acceptance) -> Progress:
        state, held = self._requests[row], self._step_model.length_of(row)
        if held == len(state.to_read):
            self._keep_prefix(row)
        return Progress(
            held=held,
            is_decoding=held >= len(state.to_read),
            tokens=accepted.tokens,
            logprobs=state.logprobs_of(accepted.tokens),
            sources=self._sources(row) if accepted.tokens else (),
            prompt_logprobs=state.take_prompt_logprobs() if accepted.tokens else (),
            draft_tokens=accepted.nodes - 1,
            accepted_tokens=len(accepted.path) - 1,
            is_finished=state.generation.finished,
            stop=state.stop if state.generation.finished else None,
        )

    def _sources(self, row: int) -> list[TokenSource]:
        """Return where the drafts of the tokens that were emitted last came from."""
        return [_SOURCES[source] for source in self._drafter.sources(row)]

    def _keep_prefix(self, row: int) -> None:
        """Keep the blocks of the text that a row holds."""
        if not self._keeps_prefixes or not self._requests[row].request.remember:
            return
        state, held = self._requests[row], self._step_model.length_of(row)
        self._prefixes.add(
            state.request.namespace,
            state.text_ids[:held],
            lambda begin: self._step_model.copy_text(row, begin, begin + BLOCK_TOKENS),
        )
        self._prefixes.shrink(self._max_prefix_tokens)

    @torch.no_grad()
    def _read_one_token(self) -> None:
        """Read a text of one token and forget it: then the arena knows how large keys and values are."""
        self._step_model.add(_TRIAL_ROW, [0])
        self._step_model.remove(_TRIAL_ROW)

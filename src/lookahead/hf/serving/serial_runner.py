"""`SerialRunner`: a model whose requests are served one after the other, each as `generate` would."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.engine.events import TokenSource
from lookahead.engine.protocol import Progress
from lookahead.engine.request import Request
from lookahead.engine.scheduler import StepPlan
from lookahead.hf.generate.mode import LookaheadMode
from lookahead.hf.serving.request_state import RequestState
from lookahead.hf.support.model_profile import ModelProfiles
from lookahead.stats import GenerationStats

_ANY_TOKENS = 2**40


@dataclass
class _Going:
    """Whether a request goes on: asked by its stopping criterion."""

    goes_on: bool = True

    def __call__(self, input_ids: Tensor, _scores: object) -> Tensor:
        """Return which rows end, bool [1]."""
        return torch.tensor([not self.goes_on], device=input_ids.device)


class SerialRunner:
    """Serves a model that cannot have rows join: recurrent ones, those that only plain steps decode, ….

    A step is a whole answer here.

    Args:
        model: Any model that Lookahead serves.
        tokenizer: Its tokenizer, for stop strings.
        config: How drafts are made and verified.
        memory: The draft memory.
        profiles: What is known about models.
        max_request_tokens: The most tokens of prompt and answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        config: LookaheadConfig,
        memory: DraftMemory,
        profiles: ModelProfiles,
        max_request_tokens: int,
    ) -> None:
        self._model, self._tokenizer, self._memory = model, tokenizer, memory
        self._mode = LookaheadMode(config, profiles)
        self.max_rows = 1
        self.max_request_tokens = max_request_tokens
        self.max_cached_tokens = _ANY_TOKENS
        self.prefix_tokens = 0
        self.stats = GenerationStats()
        self._requests: dict[int, RequestState] = {}

    def prepare(self, request: Request) -> RequestState:
        """Return a request's state; called in any thread.

        Raises:
            LookaheadError: The model cannot serve the request.
        """
        return RequestState.of(self._model, request, self._tokenizer)

    def begin(self, request_id: int, state: RequestState) -> int:
        """Take a request; none of its tokens are held."""
        self._requests[request_id] = state
        return 0

    def step(self, plan: StepPlan, publish: Callable[[int, Progress], bool]) -> Mapping[int, Progress]:
        """Answer the one request of the plan, and publish each token but the last."""
        (request_id,) = plan.requests
        state, going, last = self._requests[request_id], _Going(), Progress()
        call, generation = state.call, state.generation

        def emit(tokens: Tensor) -> None:
            nonlocal last
            if last.tokens:
                going.goes_on = going.goes_on and publish(request_id, last)
            emitted = tokens.tolist()
            last = Progress(
                tokens=emitted,
                logprobs=state.logprobs_of(emitted),
                sources=[TokenSource.PLAIN] * len(emitted),  # a call does not tell
                prompt_logprobs=state.take_prompt_logprobs(),
            )

        if state.wants_prompt_logits:
            self._note_prompt_logits(state)

        generation.publish_to(emit)
        generation.end_by(going)
        checked = self._mode.prepare(
            self._memory,
            self.stats.add,
            call.model,
            call.input_ids,
            logits_processor=call.logits_processor,
            stopping_criteria=call.stopping_criteria,
            generation_config=call.generation_config,
            namespace=state.request.namespace,
            reads=state.request.reads,
            **call.model_kwargs,
        )
        self._mode.decode(checked, generation)
        return {
            request_id: Progress(
                tokens=last.tokens,
                logprobs=last.logprobs,
                sources=last.sources,
                prompt_logprobs=last.prompt_logprobs,
                is_finished=going.goes_on,
                stop=state.stop,
            )
        }

    @torch.no_grad()
    def _note_prompt_logits(self, state: RequestState) -> None:
        ids = state.call.input_ids
        logits = state.call.model(input_ids=ids, use_cache=False).logits[0]
        state.note_prompt_logits(0, logits)

    def release(self, request_id: int) -> None:
        """Forget a request."""
        del self._requests[request_id]

    def end(self, request_id: int, state: RequestState) -> None:
        """Forget a request."""
        del state
        self._requests.pop(request_id, None)

    def shrink_prefixes(self, max_tokens: int) -> None:
        """Do nothing: no prefixes are kept."""

    def close(self) -> None:
        """Forget everything."""
        self._requests.clear()

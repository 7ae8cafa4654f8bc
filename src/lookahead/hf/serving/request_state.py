"""`RequestState`: a request from its submission to its end, with the callbacks that `generate` would have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import EosTokenCriteria, StopStringCriteria

from lookahead.decoding.sampling.choice import Sampler, argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.engine.events import TokenLogprobs
from lookahead.engine.request import Request
from lookahead.hf.compat.call import GenerateCall, pop_stop_strings
from lookahead.hf.generate.attachment import uncompiled
from lookahead.hf.generate.checks import check_call, check_prompt
from lookahead.hf.generate.row_groups import state_of_request
from lookahead.hf.serving.arguments import end_tokens, generate_arguments


class LogprobsRecorder:
    """Notes the raw scores of each choice before the processors see them, some of which write into them.

    Args:
        processors: What `generate` calls.
    """

    def __init__(self, processors: Any) -> None:
        self._processors = processors
        self._scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the processed scores [1, V]."""
        self._scores.append(scores.log_softmax(dim=-1)[0])
        processed: Tensor = self._processors(input_ids, scores)
        return processed

    def take(self, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
        """Return the log-probabilities at the last chosen tokens, with those of the `count` most probable."""
        noted, self._scores = self._scores, []
        return [token_logprobs(token, scores, count) for token, scores in zip(tokens, noted, strict=True)]


def token_logprobs(token: int, scores: Tensor, count: int) -> TokenLogprobs:
    """Return the log-probability of a token and those of the `count` most probable, from scores [V]."""
    top = scores.topk(count) if count else None
    pairs = () if top is None else zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return TokenLogprobs(token, float(scores[token]), tuple(pairs))


@dataclass(eq=False)
class RequestState:
    """A request and its answer so far.

    Attributes:
        request: The request.
        generation: Chooses its tokens; holds prompt and answer.
        call: The call of `generate` that it stands for.
        tokenizer: The model's, for stop strings.
        ends: The tokens that end the answer.
        stop_strings: The criterion of the stop strings, if there are any.
        recorder: Notes log-probabilities, if the request wants them.
        to_read: The tokens that its row has to read before it decodes.
        is_known: Whether the drafter knows the request.
        prompt_logprobs: Of the prompt's tokens so far, if the request wants them.
    """

    request: Request
    generation: GenerationState
    call: GenerateCall
    tokenizer: PreTrainedTokenizerBase | None
    ends: frozenset[int]
    stop_strings: StopStringCriteria | None = None
    recorder: LogprobsRecorder | None = None
    to_read: list[int] = field(default_factory=list)
    is_known: bool = False
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

    @classmethod
    def of(
        cls, model: PreTrainedModel, request: Request, tokenizer: PreTrainedTokenizerBase | None
    ) -> "RequestState":
        """Return the state of a new request.

        Raises:
            LookaheadError: The model cannot serve it.
        """
        call, stop_strings = prepared_call(model, request, tokenizer)
        sampling = request.sampling
        generator = torch.Generator()  # samples are drawn on the model's device
        if call.input_ids.device.type != "cpu":
            generator = torch.Generator(call.input_ids.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        sampler = None if sampling.is_greedy else Sampler(generator)
        others: dict[str, Any] = {"foresee": None if sampler is None else sampler.foresee}
        recorder = None
        if request.logprobs is not None:
            recorder = LogprobsRecorder(call.logits_processor)
            others |= {"process": recorder, "ends": None}
        generation = state_of_request(call, choose=sampler or argmax, **others)
        ends = frozenset(end_tokens(model, request))
        prompt = [int(token) for token in request.prompt_ids]
        return cls(request, generation, call, tokenizer, ends, stop_strings, recorder, to_read=prompt)

    @property
    def has_answer(self) -> bool:
        """Whether the first token of the answer has been chosen."""
        return self.generation.length > len(self.request.prompt_ids)

    @property
    def text_ids(self) -> list[int]:
        """The tokens of prompt and answer."""
        ids: list[int] = self.generation.token_ids[0].tolist()
        return ids

    def logprobs_of(self, tokens: Sequence[int]) -> list[TokenLogprobs]:
        """Return the log-probabilities of the tokens that were emitted last; none if they are not wanted."""
        if self.recorder is None or self.request.logprobs is None:
            return []
        return self.recorder.take(tokens, self.request.logprobs)

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits of the whole prompt are wanted: until the answer begins."""
        return self.request.prompt_logprobs is not None and not self.has_answer

    def note_prompt_logits(self, begin: int, logits: Tensor) -> None:
        """Note the log-probabilities of the tokens that follow a part of the prompt.

        Args:
            begin: Where the part begins; an earlier beginning, after a preemption, starts anew.
            logits: [n, V], after each token of the part.
        """
        count, prompt = self.request.prompt_logprobs, self.request.prompt_ids
        assert count is not None  # noqa: S101  # it is only called where they are wanted
        if begin == 0:
            self.prompt_logprobs = [None]
        following = prompt[begin + 1 : begin + 1 + len(logits)]
        scores = logits[: len(following)].float().log_softmax(dim=-1)
        self.prompt_logprobs += [
            token_logprobs(int(token), of_token, count)
            for token, of_token in zip(following, scores, strict=True)
        ]

    def take_prompt_logprobs(self) -> list[TokenLogprobs | None]:
        """Return the log-probabilities of the prompt, once."""
        noted, self.prompt_logprobs = self.prompt_logprobs, []
        return noted

    @property
    def stop(self) -> int | str | None:
        """The token or the string that ended the answer; None if its length did."""
        ids = self.generation.token_ids
        last = int(ids[0, -1])
        if last in self.ends:
            return last
        if self.stop_strings is None or not bool(self.stop_strings(ids, None)):
            return None
        assert self.tokenizer is not None  # noqa: S101  # there are no stop strings without it
        answer = self.tokenizer.decode(ids[0, len(self.request.prompt_ids) :])
        texts = self.request.stop_strings
        return next((text for text in texts if text in answer), texts[0])


def prepared_call(
    model: PreTrainedModel, request: Request, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[GenerateCall, StopStringCriteria | None]:
    """Let `generate` prepare a request's call, up to its loop; return it and the criterion of stop strings.

    Raises:
        LookaheadError: The request is not allowed.
        ValueError: As raised by `generate`.
    """
    inner: Any = uncompiled(model)
    arguments = generate_arguments(model, request, tokenizer)
    check_prompt(model, arguments["inputs"], None)
    extra = pop_stop_strings(model, arguments)
    found: list[GenerateCall] = []

    def keep(model: PreTrainedModel, input_ids: Tensor, **prepared: Any) -> Tensor:
        call = GenerateCall(
            model,
            input_ids,
            logits_processor=prepared.pop("logits_processor"),
            stopping_criteria=prepared.pop("stopping_criteria"),
            generation_config=prepared.pop("generation_config"),
            streamer=None,
            namespaces=(request.namespace,),
            reads=tuple(request.reads),
            model_kwargs=prepared,
        )
        found.append(call)
        return input_ids

    type(inner).generate(inner, **arguments, custom_generate=keep)
    (call,) = found
    check_call(model, call.generation_config)
    if not end_tokens(model, request):  # the model's own end of text is ignored
        kept = [one for one in call.stopping_criteria if not isinstance(one, EosTokenCriteria)]
        call.stopping_criteria[:] = kept
    call.stopping_criteria.extend(extra)
    return call, extra[0] if extra else None

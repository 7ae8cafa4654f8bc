"""Generation states for a call's rows: one for each row, or one for all rows that advance in lockstep."""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

from torch import Tensor
from transformers.generation import logits_process, stopping_criteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lookahead.decoding.sampling.choice import DefaultNoise, Sampler, StepNoise, TokenChoice, argmax
from lookahead.decoding.sampling.state import GenerationState, padded_together
from lookahead.drafting.noise import Noise
from lookahead.hf.compat.call import GenerateCall
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.generation import pad_token_of, streamers_come_first
from lookahead.stats import GenerationStats

_ROW_BY_ROW_PROCESSORS = frozenset(
    {
        logits_process.MinLengthLogitsProcessor,
        logits_process.MinNewTokensLengthLogitsProcessor,
        logits_process.TemperatureLogitsWarper,
        logits_process.RepetitionPenaltyLogitsProcessor,
        logits_process.TopPLogitsWarper,
        logits_process.TopKLogitsWarper,
        logits_process.MinPLogitsWarper,
        logits_process.TypicalLogitsWarper,
        logits_process.EpsilonLogitsWarper,
        logits_process.EtaLogitsWarper,
        logits_process.NoRepeatNGramLogitsProcessor,
        logits_process.SequenceBiasLogitsProcessor,
        logits_process.NoBadWordsLogitsProcessor,
        logits_process.ForcedBOSTokenLogitsProcessor,
        logits_process.ForcedEOSTokenLogitsProcessor,
        logits_process.InfNanRemoveLogitsProcessor,
        logits_process.ExponentialDecayLengthPenalty,
        logits_process.LogitNormalization,
        logits_process.SuppressTokensAtBeginLogitsProcessor,
        logits_process.SuppressTokensLogitsProcessor,
    }
)
"""Transformers' processors that are stateless and treat each row independently."""

_PROCESSORS_THAT_WAIT = frozenset(
    {
        logits_process.EtaLogitsWarper,
        logits_process.NoRepeatNGramLogitsProcessor,
        logits_process.SequenceBiasLogitsProcessor,
        logits_process.NoBadWordsLogitsProcessor,
    }
)
"""Those of them that read values from the device."""

_MAX_NOISE_BYTES = 2**28
"""Limit on the noise drawn for rows that are behind; it bounds how far other rows may be ahead."""

_ROW_BY_ROW_CRITERIA = frozenset(
    {
        stopping_criteria.MaxLengthCriteria,
        stopping_criteria.EosTokenCriteria,
        stopping_criteria.StopStringCriteria,
    }
)


def row_groups_for(generate_call: GenerateCall, *, lockstep: bool = False) -> list[GenerationState]:
    """Return a generation state for each row, or one for all rows if they have to advance in lockstep.

    `generate` calls every callback with all rows at once. Transformers' own callbacks treat each row
    independently, so here each is called with a single row. Any other callback must see what it would see in
    `generate`, which needs lockstep.

    Args:
        generate_call: The call.
        lockstep: Whether the rows have to advance in lockstep for another reason.
    """
    generation_config = generate_call.generation_config
    input_ids = generate_call.input_ids.long()  # in `generate` as well, the first new token makes them int64
    processors, criteria = generate_call.logits_processor, generate_call.stopping_criteria
    streamer, rows = generate_call.streamer, len(input_ids)
    returns_dict = generation_config.return_dict_in_generate
    common = _settings_of(generate_call)
    sees_all_rows = (
        streamer is not None
        or returns_dict
        or not _treat_rows_alone(processors, _ROW_BY_ROW_PROCESSORS)
        or not _treat_rows_alone(criteria, _ROW_BY_ROW_CRITERIA)
        or not (_ends_by_token(criteria) or _all_end_at_once(criteria))
    )
    samples = generation_config.do_sample
    if rows == 1 or lockstep or sees_all_rows:
        sampler = Sampler() if samples else None
        foresee = None if sampler is None else sampler.foresee
        noise_of_one = DefaultNoise() if samples and rows == 1 else None
        choose = sampler or argmax
        return [GenerationState(input_ids, choose=choose, foresee=foresee, noise=noise_of_one, **common)]
    noise = StepNoise(rows)
    bytes_per_step = 4 * rows * text_config(generate_call.model).vocab_size
    return [
        GenerationState(
            input_ids[row : row + 1],
            rows=(row,),
            choose=noise.choice_of_row(row) if samples else argmax,
            foresee=partial(_foresee, noise, row) if samples else None,
            noise=noise.noise_of_row(row) if samples else None,
            max_lead_tokens=max(1, _MAX_NOISE_BYTES // bytes_per_step) if samples else None,
            on_finish=partial(noise.remove, row),
            **{**common, "process": _of_row(processors, row)},
        )
        for row in range(rows)
    ]


def _foresee(noise: StepNoise, row: int, _place: int) -> Noise | None:
    """Return the noise of a row's next draws; its state has no other row."""
    return noise.foresee(row)


def state_of_request(generate_call: GenerateCall, *, choose: TokenChoice, **others: Any) -> GenerationState:
    """Return the generation state of a call of one row that is not decoded by `generate`.

    Args:
        generate_call: The call.
        choose: Chooses the tokens.
        **others: Arguments of `GenerationState` that replace the call's.
    """
    settings = {**_settings_of(generate_call), **others}
    return GenerationState(generate_call.input_ids.long(), choose=choose, **settings)


def _settings_of(generate_call: GenerateCall) -> dict[str, Any]:
    """Return the arguments of `GenerationState` that all rows of a call share."""
    generation_config = generate_call.generation_config
    processors, criteria = generate_call.logits_processor, generate_call.stopping_criteria
    returns_dict = generation_config.return_dict_in_generate
    streamer = generate_call.streamer
    return {
        "max_length": criteria.max_length or generation_config.max_length,
        "process": processors,
        "is_finished": criteria,
        "pad_token_id": pad_token_of(generation_config) if _ends_by_token(criteria) else None,
        "publish": None if streamer is None else streamer.put,
        "publish_first": streamers_come_first(),
        "keep_scores": returns_dict and generation_config.output_scores,
        "keep_logits": returns_dict and generation_config.output_logits,
        "ends": _ends_of_greedy(processors, criteria, generation_config),
        "sampled_ends": _ends_of_samples(processors, criteria, generation_config),
    }


def _ends_by_token(criteria: Any) -> bool:
    return any(hasattr(criterion, "eos_token_id") for criterion in criteria)


def _of_row(processors: Any, row: int) -> Any:
    """Return the processors for one row; one of them may hold a value per row."""
    own = type(processors)()
    for processor in processors:
        ignored = getattr(processor, "prompt_ignore_length", None)
        if isinstance(ignored, Tensor):  # the padding of each row
            processor = copy(processor)  # noqa: PLW2901  other rows need the original
            processor.prompt_ignore_length = ignored[row : row + 1]
        own.append(processor)
    return own


def _ends_of_greedy(processors: Any, criteria: Any, generation_config: Any) -> frozenset[int] | None:
    """Return the tokens that end an answer, if the argmax and these tokens and the length decide everything.

    None with sampling, processors, scores to keep, or other criteria.
    """
    if generation_config.do_sample or len(processors) > 0:
        return None
    return _known_ends(criteria, generation_config)


def _ends_of_samples(processors: Any, criteria: Any, generation_config: Any) -> frozenset[int] | None:
    """Return the tokens that end an answer, if samples may be chosen on a device, several before one is read.

    None without sampling, or with scores to keep, other criteria, or processors that are not known to be
    without a state and to wait for nothing.
    """
    known = _ROW_BY_ROW_PROCESSORS - _PROCESSORS_THAT_WAIT
    if not generation_config.do_sample or not _treat_rows_alone(processors, known):
        return None
    return _known_ends(criteria, generation_config)


def _known_ends(criteria: Any, generation_config: Any) -> frozenset[int] | None:
    """Return the tokens that end an answer; None with scores to keep or other criteria than the length."""
    keeps = generation_config.return_dict_in_generate and (
        generation_config.output_scores or generation_config.output_logits
    )
    lengths = [criterion for criterion in criteria if type(criterion) is stopping_criteria.MaxLengthCriteria]
    ends = [criterion for criterion in criteria if type(criterion) is stopping_criteria.EosTokenCriteria]
    are_known = len(lengths) <= 1 and len(lengths) + len(ends) == len(criteria)
    if keeps or not are_known:
        return None
    return frozenset(token for criterion in ends for token in criterion.eos_token_id.flatten().tolist())


def _treat_rows_alone(callbacks: Any, known: frozenset[type]) -> bool:
    return all(type(callback) in known for callback in callbacks)


def _all_end_at_once(criteria: Any) -> bool:
    """Return whether only the length ends an answer, so that all rows end at the same step."""
    return all(type(criterion) is stopping_criteria.MaxLengthCriteria for criterion in criteria)


def token_ids_of(states: Sequence[GenerationState], generation_config: Any) -> Tensor:
    """Return prompts and answers as `generate` returns them: int64 [B, longest]."""
    if len(states) == 1:
        return states[0].token_ids.clone()
    return padded_together(states, pad_token_of(generation_config))


def output_of(state: GenerationState, cache: Any, stats: GenerationStats) -> GenerateDecoderOnlyOutput:
    """Return what `generate` returns with `return_dict_in_generate`, plus `lookahead_stats`."""
    fields: dict[str, Any] = {  # transformers' annotations are narrower than the tensors it returns
        "sequences": state.token_ids.clone(),
        "scores": state.scores,
        "logits": state.logits,
    }
    output = GenerateDecoderOnlyOutput(past_key_values=cache, **fields)
    output.lookahead_stats = stats
    return output

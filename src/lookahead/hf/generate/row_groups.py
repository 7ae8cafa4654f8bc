"""From what `generate` prepared to emissions: which rows may advance alone, and which wait for each other."""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

from torch import Tensor
from transformers.generation import logits_process, stopping_criteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lookahead.decoding.sampling.choice import StepNoise, argmax, drawn
from lookahead.decoding.sampling.state import GenerationState, padded_together
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
"""The library's own that keep nothing from call to call and treat each row as if it were alone."""

_MAX_NOISE_BYTES = 2**28
"""Noise that rows which are ahead have had drawn for those behind takes no more: so far may they be ahead."""

_ROW_BY_ROW_CRITERIA = frozenset(
    {
        stopping_criteria.MaxLengthCriteria,
        stopping_criteria.EosTokenCriteria,
        stopping_criteria.StopStringCriteria,
    }
)


def row_groups_for(generate_call: GenerateCall, *, lockstep: bool = False) -> list[GenerationState]:
    """Return an emission for each row, or one for all of them where they have to advance together.

    `generate` calls every callback with all rows at once. The library's own treat each row as if it were
    alone, and are called with it alone here; any other sees what it would see in `generate`, so that the
    rows wait for each other.

    Args:
        generate_call: the call.
        lockstep: whether the rows have to advance together for another reason.
    """
    input_ids, generation_config = generate_call.input_ids, generate_call.generation_config
    processors, criteria = generate_call.logits_processor, generate_call.stopping_criteria
    streamer, rows = generate_call.streamer, len(input_ids)
    ends_by_token = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
    returns_dict = generation_config.return_dict_in_generate
    common: dict[str, Any] = {
        "max_length": criteria.max_length or generation_config.max_length,
        "process": processors,
        "is_finished": criteria,
        "pad_token_id": pad_token_of(generation_config) if ends_by_token else None,
        "publish": None if streamer is None else streamer.put,
        "publish_first": streamers_come_first(),
        "keep_scores": returns_dict and generation_config.output_scores,
        "keep_logits": returns_dict and generation_config.output_logits,
        "ends": _ends_of_greedy(processors, criteria, generation_config),
    }
    sees_all_rows = (
        streamer is not None
        or returns_dict
        or not _treat_rows_alone(processors, _ROW_BY_ROW_PROCESSORS)
        or not _treat_rows_alone(criteria, _ROW_BY_ROW_CRITERIA)
        or not (ends_by_token or _all_end_at_once(criteria))
    )
    if rows == 1 or lockstep or sees_all_rows:
        return [GenerationState(input_ids, choose=drawn if generation_config.do_sample else argmax, **common)]
    noise = StepNoise(rows)
    bytes_a_step = 4 * rows * text_config(generate_call.model).vocab_size
    return [
        GenerationState(
            input_ids[row : row + 1],
            rows=(row,),
            choose=noise.of_row(row) if generation_config.do_sample else argmax,
            max_lead_tokens=max(1, _MAX_NOISE_BYTES // bytes_a_step) if generation_config.do_sample else None,
            on_finish=partial(noise.leave, row),
            **{**common, "process": _of_row(processors, row)},
        )
        for row in range(rows)
    ]


def _of_row(processors: Any, row: int) -> Any:
    """Return the processors as one row needs them: one of them may know something of each row."""
    own = type(processors)()
    for processor in processors:
        ignored = getattr(processor, "prompt_ignore_length", None)
        if isinstance(ignored, Tensor):  # how much padding each row has
            processor = copy(processor)  # noqa: PLW2901  the others need theirs
            processor.prompt_ignore_length = ignored[row : row + 1]
        own.append(processor)
    return own


def _ends_of_greedy(processors: Any, criteria: Any, generation_config: Any) -> frozenset[int] | None:
    """Return the tokens that end an answer, where nothing but they and the length decide about it.

    None where that is not all: sampling, processors, scores to be kept, other criteria.
    """
    keeps = generation_config.return_dict_in_generate and (
        generation_config.output_scores or generation_config.output_logits
    )
    lengths = [criterion for criterion in criteria if type(criterion) is stopping_criteria.MaxLengthCriteria]
    ends = [criterion for criterion in criteria if type(criterion) is stopping_criteria.EosTokenCriteria]
    are_known = len(lengths) <= 1 and len(lengths) + len(ends) == len(criteria)
    if generation_config.do_sample or len(processors) > 0 or keeps or not are_known:
        return None
    return frozenset(token for criterion in ends for token in criterion.eos_token_id.flatten().tolist())


def _treat_rows_alone(callbacks: Any, known: frozenset[type]) -> bool:
    return all(type(callback) in known for callback in callbacks)


def _all_end_at_once(criteria: Any) -> bool:
    """Return whether nothing but the length ends an answer, which ends all rows at one step."""
    return all(type(criterion) is stopping_criteria.MaxLengthCriteria for criterion in criteria)


def token_ids_of(states: Sequence[GenerationState], generation_config: Any) -> Tensor:
    """Return prompts and answers as `generate` returns them: int64 [B, longest]."""
    if len(states) == 1:
        return states[0].token_ids.clone()
    return padded_together(states, pad_token_of(generation_config))


def output_of(state: GenerationState, cache: Any, stats: GenerationStats) -> GenerateDecoderOnlyOutput:
    """Return what `generate` returns where a dict was asked for, and with it `lookahead_stats`."""
    fields: dict[str, Any] = {  # the library's annotations ask for narrower tensors than it makes
        "sequences": state.token_ids.clone(),
        "scores": state.scores,
        "logits": state.logits,
    }
    output = GenerateDecoderOnlyOutput(past_key_values=cache, **fields)
    output.lookahead_stats = stats
    return output

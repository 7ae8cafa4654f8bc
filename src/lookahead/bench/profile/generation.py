"""Short generations with Lookahead and with `generate`: first token, peak memory, the parts of a step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from lookahead.bench.profile.steps import interleaved_medians
from lookahead.bench.run.peak_memory import peak_tensor_bytes
from lookahead.config import LookaheadConfig
from lookahead.hf.compat.config import text_config
from lookahead.hf.lookahead import Lookahead
from lookahead.stats import GenerationStats

DECODING_LENGTH = 16
"""Tokens of each verified forward pass: a fixed size, so that nothing depends on measured step times."""
USUAL = LookaheadConfig(decoding_length=DECODING_LENGTH)
PARTS = ("model_s", "verify_s", "cache_s", "recycle_s", "draft_s")
"""The parts of a decoding step, by their names in `GenerationStats`."""
_FIRST_TOKEN_ROUNDS = 3
_PIECE_TOKENS = 3


@contextmanager
def never_ending(model: PreTrainedModel) -> Iterator[None]:
    """Let the model answer greedily, and without end-of-sequence tokens, within the context."""
    before = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = before


def profile_decoding(
    model: PreTrainedModel, prompt: Sequence[int], *, new_tokens: int, config: LookaheadConfig = USUAL
) -> dict[str, Any]:
    """Generate with Lookahead in forward passes of 16 tokens, and return where the time of the steps went.

    The memory is warmed with pieces of the answer, so that every draft is full and accepted in part, whatever
    the weights are.
    """
    answer = _run(Lookahead(config).generate, model, prompt, new_tokens)
    lookahead = Lookahead(config)
    lookahead.memory.warm(known_pieces(answer[len(prompt) :], text_config(model).vocab_size))
    _run(lookahead.generate, model, prompt, new_tokens)
    return decoding_shares(lookahead.last_stats)


def known_pieces(answer: Sequence[int], vocabulary: int) -> list[list[int]]:
    """Return an answer in pieces of four tokens, overlapping by one, each followed by random tokens."""
    random = np.random.default_rng(0)
    return [
        [
            *answer[start : start + _PIECE_TOKENS + 1],
            *random.integers(0, vocabulary, DECODING_LENGTH).tolist(),
        ]
        for start in range(0, len(answer), _PIECE_TOKENS)
    ]


def decoding_shares(stats: GenerationStats) -> dict[str, Any]:
    """Return the parts of decoding, per forward pass and as shares, and the size of the drafts."""
    forwards = max(1, stats.forwards)
    return {
        "decoding_length": DECODING_LENGTH,
        "tokens": stats.tokens,
        "forwards": stats.forwards,
        "mean_acceptance_length": stats.mean_acceptance_length,
        "nodes_per_forward": (stats.draft_tokens + stats.row_steps) / forwards,
        "seconds_per_forward": {part: getattr(stats, part) / forwards for part in PARTS},
        "shares": {part: getattr(stats, part) / stats.decode_s if stats.decode_s else 0.0 for part in PARTS},
    }


def profile_first_token(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    repeats: int,
    config: LookaheadConfig = USUAL,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Return the median seconds to the first token, of `generate` and of Lookahead in turns."""
    lookahead = _probed(model, prompt, config)
    seconds = interleaved_medians(
        {
            "generate_s": _generate(model, prompt, 1),
            "lookahead_s": lambda: _run(lookahead.generate, model, prompt, 1),
        },
        min(repeats, _FIRST_TOKEN_ROUNDS),
        unmeasured=0,  # steps and decoding with this prompt have been measured before
        clock=clock,
    )
    return {**seconds, "over_generate": seconds["lookahead_s"] / seconds["generate_s"]}


def profile_memory(
    model: PreTrainedModel, prompt: Sequence[int], *, new_tokens: int, config: LookaheadConfig = USUAL
) -> dict[str, float]:
    """Return the peak bytes of tensors of a short generation by each, with and without the weights."""
    weights = model.get_memory_footprint()
    lookahead = _probed(model, prompt, config)
    working = {
        "generate": peak_tensor_bytes(_generate(model, prompt, new_tokens), model.device),
        "lookahead": peak_tensor_bytes(
            lambda: _run(lookahead.generate, model, prompt, new_tokens), model.device
        ),
    }
    peaks = {f"{name}_peak_bytes": weights + found for name, found in working.items()}
    return {
        "new_tokens": new_tokens,
        **{f"{name}_working_bytes": found for name, found in working.items()},
        **peaks,
        "over_generate": peaks["lookahead_peak_bytes"] / peaks["generate_peak_bytes"],
    }


def _generate(model: PreTrainedModel, prompt: Sequence[int], new_tokens: int) -> Callable[[], object]:
    untyped: Any = model
    return lambda: _run(lambda _model, **arguments: untyped.generate(**arguments), model, prompt, new_tokens)


def _probed(model: PreTrainedModel, prompt: Sequence[int], config: LookaheadConfig) -> Lookahead:
    """Return a Lookahead that has probed the model already, since probing is not part of a generation."""
    lookahead = Lookahead(config)
    _run(lookahead.generate, model, prompt[:1], 1)
    return lookahead


def _run(
    generate: Callable[..., Any], model: PreTrainedModel, prompt: Sequence[int], new_tokens: int
) -> list[int]:
    """Return the prompt and its answer."""
    ids = torch.tensor([list(prompt)], device=model.device)
    settings = {"do_sample": False, "max_new_tokens": new_tokens}
    answered: torch.Tensor = generate(model, input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return [int(token) for token in answered[0]]

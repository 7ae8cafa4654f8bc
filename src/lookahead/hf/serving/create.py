"""`create_engine`: an engine for a transformers model, and what it promises."""

import logging
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.config import LookaheadConfig
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.engine.local_engine import LocalEngine
from lookahead.engine.protocol import ModelRunner
from lookahead.engine.settings import EngineSettings
from lookahead.hf.compat.layout import AttentionLayout, attention_layout, fresh_cache
from lookahead.hf.compat.limits import DraftLimits
from lookahead.hf.generate.checks import check_memory, check_model
from lookahead.hf.machine.dtypes import dtype_name
from lookahead.hf.serving.request_state import RequestState
from lookahead.hf.serving.row_runner import RowRunner
from lookahead.hf.serving.serial_runner import SerialRunner
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.model_profile import ModelProfiles

_log = logging.getLogger("lookahead")
_ANY_CONTEXT = 2**20
_SAME_BITS = "each answer has the bits of the request alone, whoever else is served"
_SAME_TEXT = "each answer has the text of the request alone, up to rounding in the last bits of float32"
_NO_PROMISE = (
    "an answer may depend on who else is served, since its code rounds {dtype} sums by the shape of the batch"
)


@dataclass(frozen=True)
class ServingReport:
    """How an engine serves a model.

    Attributes:
        why_not_together: Why requests are served one after the other; empty if they are served together.
        promise: What holds for an answer while others are served.
    """

    why_not_together: str
    promise: str

    def __str__(self) -> str:
        how = f"one after the other: {self.why_not_together}" if self.why_not_together else "together"
        return f"requests are served {how}; {self.promise}"


def create_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: LookaheadConfig,
    memory: DraftMemory,
    settings: EngineSettings,
) -> tuple[LocalEngine, ServingReport]:
    """Return a running engine and how it serves the model, which is logged as well.

    Raises:
        LookaheadError: Lookahead cannot serve the model.
    """
    check_model(model)
    check_memory(model, memory)
    profiles = ModelProfiles(config)
    layout = attention_layout(model, fresh_cache(model))
    # Without drafts, a call is decoded in plain steps, whose rows cannot join. Rows can, so trees are tried.
    tried = ModelProfiles(replace(config, decoding_length=2)) if config.decoding_length == 1 else profiles
    verification = tried.verification(model, layout, settings.max_rows)
    context = DraftLimits.of(model).context or _ANY_CONTEXT
    max_request_tokens = min(settings.max_request_tokens or context, context)
    why_not = why_not_together(model, layout, verification, profiles)
    runner: ModelRunner[RequestState]
    if why_not:
        runner = SerialRunner(
            model,
            tokenizer,
            config=config,
            memory=memory,
            profiles=profiles,
            max_request_tokens=max_request_tokens,
        )
    else:
        runner = RowRunner(
            model,
            tokenizer,
            config=config,
            memory=memory,
            settings=settings,
            profiles=profiles,
            layout=layout,
            verification=verification,
            max_request_tokens=max_request_tokens,
        )
    report = ServingReport(why_not, _promise(model, verification, is_alone=bool(why_not)))
    _log.info("%s: %s", type(model).__name__, report)
    return LocalEngine(runner, settings), report


def why_not_together(
    model: PreTrainedModel, layout: AttentionLayout, verification: Verification, profiles: ModelProfiles
) -> str:
    """Return why a model's requests are served one after the other; empty if they are served together."""
    limits = profiles.traits(model).limits
    if layout.unsupported:
        return layout.unsupported
    if verification.mode is VerificationMode.PLAIN:
        return "it is decoded in plain steps"
    if limits.rope_switch is not None or limits.rope_growth is not None:
        return "its rotary frequencies change with the length of the text"
    if not verification.rows_may_differ or profiles.traits(model).bias:
        return "its rows have to be equally long"
    return ""


def _promise(model: PreTrainedModel, verification: Verification, *, is_alone: bool) -> str:
    dtype = dtype_name(model.dtype)
    if is_alone or verification.is_compiled:
        return _SAME_BITS
    return _SAME_TEXT if dtype == "float32" else _NO_PROMISE.format(dtype=dtype)

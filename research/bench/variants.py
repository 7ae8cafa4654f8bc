"""Lookahead's variants: the paper's modes on each store, a memory emptied before each prompt, other sizes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.methods.lookahead import LookaheadMethod
from lookahead.bench.methods.method import Inputs, Method, Output
from lookahead.bench.methods.registry import MakeMethod
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DraftStore
from lookahead.drafting.trie.token_trie import TokenTrie

LOOKAHEAD_FRESH = "lookahead-fresh"
FIXED_LENGTH = 16
"""Decoding length of the variants with a fixed size, unless the settings give one."""


class FreshMethod(LookaheadMethod):
    """Lookahead with a memory that is emptied before each call."""

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Empty the memory, and answer with Lookahead."""
        self.forget()
        return super().generate(model, inputs, settings=settings, streamer=streamer)


def log_store(config: LookaheadConfig) -> DraftStore:
    """Return an empty log."""
    return TokenLog(max_bytes=config.max_bytes)


def trie_store(config: LookaheadConfig) -> DraftStore:
    """Return an empty trie."""
    return TokenTrie(max_bytes=config.max_bytes)


def of_fixed_size(
    store: Callable[[LookaheadConfig], DraftStore],
    mode: DraftMode = DraftMode.HIERARCHICAL,
    method: type[LookaheadMethod] = LookaheadMethod,
) -> MakeMethod:
    """Return what makes a Lookahead with a store, a draft mode and a fixed decoding length."""

    def made(name: str, config: LookaheadConfig) -> Method:
        length = FIXED_LENGTH if config.decoding_length == "auto" else config.decoding_length
        fixed = replace(config, decoding_length=length, draft_mode=mode)
        return method(name, fixed, make_memory=lambda: DraftMemory(store=store(fixed)))

    return made


def _sized(name: str, config: LookaheadConfig, tokens: int, depth: int) -> Method:
    return LookaheadMethod(name, replace(config, decoding_length=tokens, branch_length=depth))


def _capped(name: str, config: LookaheadConfig, kibibytes: int) -> Method:
    return LookaheadMethod(name, replace(config, max_bytes=kibibytes * 2**10))


VARIANTS: dict[str, MakeMethod] = {
    "llma": of_fixed_size(log_store, DraftMode.SINGLE),
    "lookahead-parallel": of_fixed_size(trie_store, DraftMode.PARALLEL),
    "lookahead-trie": of_fixed_size(trie_store),
    "lookahead-log": of_fixed_size(log_store),
    LOOKAHEAD_FRESH: FreshMethod,
    "lookahead-NxM": _sized,
    "lookahead-NKiB": _capped,
}
"""By name: N tokens, at most M deep; a memory of N KiB."""

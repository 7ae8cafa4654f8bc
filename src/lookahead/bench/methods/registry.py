"""The methods that a benchmark can compare, by name.

To add one: write a subclass of `Method`, and add a line to `METHODS` (`_SIZED` if the name has a number).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from lookahead.bench.methods.library import AssistedMethod, StaticCompiledMethod, TransformersMethod
from lookahead.bench.methods.lookahead import LookaheadMethod
from lookahead.bench.methods.method import Method
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DraftStore
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError

BASELINE = "transformers"
NOISE = "transformers-again"
"""The baseline a second time. The distance between the two is the noise of the run."""
PROMPT_LOOKUP = "prompt-lookup"
ASSISTED = "assisted"
LOOKAHEAD = "lookahead"
LOOKAHEAD_PLAIN = "lookahead-plain"
LOOKAHEAD_FRESH = "lookahead-fresh"
LOOKAHEAD_REPRODUCIBLE = "lookahead-reproducible"
LOOKAHEAD_VOCABULARY = "lookahead-vocabulary"

PROMPT_LOOKUP_SIZES = (5, 10, 20)
_PROMPT_LOOKUP_NGRAM = 3
FIXED_LENGTH = 16
"""Decoding length of the variants with a fixed size, unless the settings give one."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What methods are made of.

    Attributes:
        config: Settings of the Lookahead methods.
        assistant: Loads the draft model of `assisted`; None if none was named.
        longest_tokens: Tokens of the longest prompt and answer, for caches of one size.
    """

    config: LookaheadConfig
    assistant: Callable[[], PreTrainedModel] | None = None
    longest_tokens: int = 0


def _prompt_lookup(size: int, name: str = "", variants: Sequence[Method] = ()) -> Method:
    options = {"prompt_lookup_num_tokens": size, "max_matching_ngram_size": _PROMPT_LOOKUP_NGRAM}
    return TransformersMethod(name or f"{PROMPT_LOOKUP}-{size}", options, batches=False, variants=variants)


def _best_prompt_lookup(_given: Ingredients) -> Method:
    variants = [_prompt_lookup(size) for size in PROMPT_LOOKUP_SIZES]
    return _prompt_lookup(PROMPT_LOOKUP_SIZES[0], PROMPT_LOOKUP, variants)


def _assisted(given: Ingredients) -> Method:
    if given.assistant is None:
        message = f"method {ASSISTED!r} needs a draft model: name one with --assistant"
        raise ConfigError(message)
    return AssistedMethod(ASSISTED, given.assistant)


def _fixed(config: LookaheadConfig, mode: DraftMode) -> LookaheadConfig:
    length = FIXED_LENGTH if config.decoding_length == "auto" else config.decoding_length
    return replace(config, decoding_length=length, draft_mode=mode)


def log_store(config: LookaheadConfig) -> DraftStore:
    """Return an empty log."""
    return TokenLog(max_bytes=config.max_bytes)


def trie_store(config: LookaheadConfig) -> DraftStore:
    """Return an empty trie."""
    return TokenTrie(max_bytes=config.max_bytes)


def of_fixed_size(
    name: str,
    store: Callable[[LookaheadConfig], DraftStore],
    mode: DraftMode = DraftMode.HIERARCHICAL,
    method: type[LookaheadMethod] = LookaheadMethod,
) -> Callable[[Ingredients], Method]:
    """Return what makes a Lookahead with a store, a draft mode and a fixed decoding length."""

    def made(given: Ingredients) -> Method:
        config = _fixed(given.config, mode)
        return method(name, config, make_memory=lambda: DraftMemory(store=store(config)))

    return made


_PAPERS = {
    "llma": (log_store, DraftMode.SINGLE),
    "lookahead-parallel": (trie_store, DraftMode.PARALLEL),
    "lookahead-trie": (trie_store, DraftMode.HIERARCHICAL),
    "lookahead-log": (log_store, DraftMode.HIERARCHICAL),
}

METHODS: dict[str, Callable[[Ingredients], Method]] = {
    BASELINE: lambda _: TransformersMethod(BASELINE),
    NOISE: lambda _: TransformersMethod(NOISE),
    PROMPT_LOOKUP: _best_prompt_lookup,
    "static-compile": lambda given: StaticCompiledMethod("static-compile", given.longest_tokens),
    ASSISTED: _assisted,
    **{name: of_fixed_size(name, *how) for name, how in _PAPERS.items()},
    LOOKAHEAD: lambda given: LookaheadMethod(LOOKAHEAD, given.config),
    LOOKAHEAD_PLAIN: lambda given: LookaheadMethod(LOOKAHEAD_PLAIN, replace(given.config, decoding_length=1)),
    LOOKAHEAD_FRESH: lambda given: LookaheadMethod(LOOKAHEAD_FRESH, given.config, is_fresh=True),
    LOOKAHEAD_REPRODUCIBLE: lambda given: LookaheadMethod(
        LOOKAHEAD_REPRODUCIBLE, replace(given.config, reproducible=True)
    ),
    LOOKAHEAD_VOCABULARY: lambda given: LookaheadMethod(
        LOOKAHEAD_VOCABULARY, given.config, knows_vocabulary=True
    ),
}
USUAL = (BASELINE, PROMPT_LOOKUP, LOOKAHEAD, LOOKAHEAD_PLAIN)


def _sized(name: str, length: str, depth: str | None, given: Ingredients) -> Method:
    config = replace(given.config, decoding_length=int(length))
    return LookaheadMethod(name, replace(config, branch_length=int(depth)) if depth else config)


def _capped(name: str, kibibytes: str, given: Ingredients) -> Method:
    return LookaheadMethod(name, replace(given.config, max_bytes=int(kibibytes) * 2**10))


_NUMBER = r"([1-9]\d*)"
_SIZED: dict[str, Callable[..., Method]] = {
    rf"{LOOKAHEAD}-{_NUMBER}(?:x{_NUMBER})?": _sized,
    rf"{LOOKAHEAD}-{_NUMBER}KiB": _capped,
    rf"{PROMPT_LOOKUP}-{_NUMBER}": lambda _name, size, _given: _prompt_lookup(int(size)),
}
SIZED_NAMES = ("lookahead-N", "lookahead-NxB", "lookahead-NKiB", "prompt-lookup-N")
"""Patterns of names with numbers: N tokens, at most B deep; a memory of N KiB; N copied tokens."""


def make_methods(names: Sequence[str], given: Ingredients) -> list[Method]:
    """Return new methods of these names, each once; `transformers` is always the first.

    Args:
        names: Keys of `METHODS`, or names as in `SIZED_NAMES`; none means the USUAL ones.
        given: What the methods are made of.

    Raises:
        ConfigError: A name is unknown, or a method lacks what it needs.
        MissingDependencyError: A method cannot run here.
    """
    chosen = dict.fromkeys([BASELINE, *(names or USUAL)])
    return [_made(name, given) for name in chosen]


def _made(name: str, given: Ingredients) -> Method:
    if name in METHODS:
        return METHODS[name](given)
    for pattern, make in _SIZED.items():
        matched = re.fullmatch(pattern, name)
        if matched:
            return make(name, *matched.groups(), given)
    message = f"method {name!r} is unknown; choose from {', '.join([*METHODS, *SIZED_NAMES])}"
    raise ConfigError(message)

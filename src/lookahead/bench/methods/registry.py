"""The registry of what a benchmark compares: each method has a line here.

To add one: write a class as `Method` asks, and give it a line in `METHODS`, or in `_SIZED` where its name has
a number in it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from lookahead.bench.methods.ablations import ABLATIONS, WithoutEarlierAnswers
from lookahead.bench.methods.best_of import BestOf
from lookahead.bench.methods.library import AssistedMethod, StaticCompiledMethod, TransformersMethod
from lookahead.bench.methods.lookahead import LookaheadMethod, PromptsToo
from lookahead.bench.methods.method import Method
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DraftStore
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError

BASELINE = "transformers"
NOISE = "transformers-again"
"""The baseline a second time: how far its figures lie from the first is the run's own noise."""
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
"""How many tokens the variants of a fixed size verify, where the settings leave it open."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What methods are made of.

    Attributes:
        config: settings of the Lookahead methods.
        assistant: loads the draft model of `assisted`; None where none is named.
        longest_tokens: the longest prompt and answer, for caches of one size.
    """

    config: LookaheadConfig
    assistant: Callable[[], PreTrainedModel] | None = None
    longest_tokens: int = 0


def _prompt_lookup(size: int) -> TransformersMethod:
    options = {"prompt_lookup_num_tokens": size, "max_matching_ngram_size": _PROMPT_LOOKUP_NGRAM}
    return TransformersMethod(f"{PROMPT_LOOKUP}-{size}", options, batches=False)


def _assisted(given: Ingredients) -> Method:
    if given.assistant is None:
        message = f"method {ASSISTED!r} needs a draft model: name one with --assistant"
        raise ConfigError(message)
    return AssistedMethod(ASSISTED, given.assistant)


def _fixed(config: LookaheadConfig, mode: DraftMode) -> LookaheadConfig:
    length = FIXED_LENGTH if config.decoding_length == "auto" else config.decoding_length
    return replace(config, decoding_length=length, draft_mode=mode)


def _log(config: LookaheadConfig) -> DraftStore:
    return TokenLog(max_bytes=config.max_bytes)


def _trie(config: LookaheadConfig) -> DraftStore:
    return TokenTrie(max_bytes=config.max_bytes)


def _of_fixed_size(
    name: str,
    store: Callable[[LookaheadConfig], DraftStore],
    mode: DraftMode = DraftMode.HIERARCHICAL,
    ablate: Callable[[Callable[[], DraftStore]], DraftStore] | None = None,
) -> Callable[[Ingredients], Method]:
    """Return what makes a Lookahead with a store, a mode and, where wanted, an idea taken out."""

    def made(given: Ingredients) -> Method:
        config = _fixed(given.config, mode)

        def make_memory() -> DraftMemory:
            if ablate is None:
                return DraftMemory(store=store(config))
            return DraftMemory(store=ablate(lambda: store(config)))

        keeps_prompts = name.endswith("without-elimination")
        return (PromptsToo if keeps_prompts else LookaheadMethod)(name, config, make_memory=make_memory)

    return made


def _fresh(given: Ingredients) -> Method:
    def make_memory() -> DraftMemory:
        return DraftMemory(store=WithoutEarlierAnswers(lambda: _log(given.config)))

    return LookaheadMethod(LOOKAHEAD_FRESH, given.config, make_memory=make_memory)


_PAPERS = {
    "llma": (_log, DraftMode.SINGLE),
    "lookahead-parallel": (_trie, DraftMode.PARALLEL),
    "lookahead-trie": (_trie, DraftMode.HIERARCHICAL),
    "lookahead-log": (_log, DraftMode.HIERARCHICAL),
}
_ABLATED = {
    f"{base}-{switch}": _of_fixed_size(f"{base}-{switch}", *_PAPERS[base], ablate)
    for base in ("lookahead-trie", "lookahead-log")
    for switch, ablate in ABLATIONS.items()
}

METHODS: dict[str, Callable[[Ingredients], Method]] = {
    BASELINE: lambda _: TransformersMethod(BASELINE, {}),
    NOISE: lambda _: TransformersMethod(NOISE, {}),
    PROMPT_LOOKUP: lambda _: BestOf(PROMPT_LOOKUP, [_prompt_lookup(size) for size in PROMPT_LOOKUP_SIZES]),
    "static-compile": lambda given: StaticCompiledMethod("static-compile", given.longest_tokens),
    ASSISTED: _assisted,
    **{name: _of_fixed_size(name, *how) for name, how in _PAPERS.items()},
    LOOKAHEAD: lambda given: LookaheadMethod(LOOKAHEAD, given.config),
    LOOKAHEAD_PLAIN: lambda given: LookaheadMethod(LOOKAHEAD_PLAIN, replace(given.config, decoding_length=1)),
    LOOKAHEAD_FRESH: _fresh,
    LOOKAHEAD_REPRODUCIBLE: lambda given: LookaheadMethod(
        LOOKAHEAD_REPRODUCIBLE, replace(given.config, reproducible=True)
    ),
    LOOKAHEAD_VOCABULARY: lambda given: LookaheadMethod(
        LOOKAHEAD_VOCABULARY, given.config, knows_vocabulary=True
    ),
    **_ABLATED,
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
"""How names with numbers look: N tokens, B of them deep; a memory of N KiB; N copied tokens."""


def make_methods(names: Sequence[str], given: Ingredients) -> list[Method]:
    """Fresh methods of these names, each once, `transformers` always among them and first.

    Args:
        names: keys of `METHODS`, or names like `SIZED_NAMES`; none means the USUAL ones.
        given: what they are made of.

    Raises:
        ConfigError: a name is unknown, or a method lacks what it needs.
        MissingDependencyError: a method cannot run here.
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

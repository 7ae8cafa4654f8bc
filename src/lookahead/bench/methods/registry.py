"""The methods that a benchmark can compare, by name.

To add one: write a subclass of `Method`, and add a line to `METHODS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lookahead.bench.methods.library import TransformersMethod
from lookahead.bench.methods.lookahead import LookaheadMethod
from lookahead.bench.methods.method import Method
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError

BASELINE = "transformers"
NOISE = "transformers-again"
"""The baseline a second time. The distance between the two is the noise of the run."""
PROMPT_LOOKUP = "prompt-lookup"
LOOKAHEAD = "lookahead"
LOOKAHEAD_PLAIN = "lookahead-plain"
LOOKAHEAD_REPRODUCIBLE = "lookahead-reproducible"
LOOKAHEAD_VOCABULARY = "lookahead-vocabulary"
USUAL = (BASELINE, PROMPT_LOOKUP, LOOKAHEAD, LOOKAHEAD_PLAIN)

MakeMethod = Callable[..., Method]
"""Makes a method from its name, the settings of Lookahead, and the numbers in its name."""

_NUMBER = r"([1-9]\d*)"
_PROMPT_LOOKUP_TOKENS = 10
_PROMPT_LOOKUP_NGRAM = 3


def _prompt_lookup(name: str, _config: LookaheadConfig, tokens: int = _PROMPT_LOOKUP_TOKENS) -> Method:
    options = {"prompt_lookup_num_tokens": tokens, "max_matching_ngram_size": _PROMPT_LOOKUP_NGRAM}
    return TransformersMethod(name, options)


def _sized(name: str, config: LookaheadConfig, tokens: int) -> Method:
    return LookaheadMethod(name, replace(config, decoding_length=tokens))


METHODS: Mapping[str, MakeMethod] = {
    BASELINE: lambda name, _config: TransformersMethod(name),
    NOISE: lambda name, _config: TransformersMethod(name),
    PROMPT_LOOKUP: _prompt_lookup,
    f"{PROMPT_LOOKUP}-N": _prompt_lookup,
    LOOKAHEAD: LookaheadMethod,
    f"{LOOKAHEAD}-N": _sized,
    LOOKAHEAD_PLAIN: partial(_sized, tokens=1),
    LOOKAHEAD_REPRODUCIBLE: lambda name, config: LookaheadMethod(name, replace(config, reproducible=True)),
    LOOKAHEAD_VOCABULARY: partial(LookaheadMethod, knows_vocabulary=True),
}
"""By name; N and M in a name are positive integers."""


def make_methods(
    names: Sequence[str], config: LookaheadConfig, known: Mapping[str, MakeMethod] = METHODS
) -> list[Method]:
    """Return new methods of these names, each once; `transformers` is always the first.

    Args:
        names: Names as in `known`; none means the USUAL ones.
        config: Settings of the Lookahead methods.
        known: The methods to choose from.

    Raises:
        ConfigError: A name is unknown, or a method lacks what it needs.
        MissingDependencyError: A method cannot run here.
    """
    chosen = dict.fromkeys([BASELINE, *(names or USUAL)])
    return [_made(name, config, known) for name in chosen]


def _made(name: str, config: LookaheadConfig, known: Mapping[str, MakeMethod]) -> Method:
    for pattern, make in known.items():
        matched = re.fullmatch(re.sub("[NM]", lambda _: _NUMBER, pattern), name)
        if matched:
            return make(name, config, *map(int, matched.groups()))
    message = f"method {name!r} is unknown; choose from {', '.join(known)}"
    raise ConfigError(message)

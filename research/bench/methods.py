"""The methods of `python -m research.bench`: `lookahead bench`'s and the project's own comparisons."""

from collections.abc import Callable, Mapping
from functools import partial

from transformers import PreTrainedModel

from lookahead.bench.methods.method import Method
from lookahead.bench.methods.registry import METHODS, PROMPT_LOOKUP, MakeMethod, make_methods
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError
from research.ablations import ABLATED_METHODS
from research.bench.best_of import BestOf
from research.bench.library import AssistedMethod, StaticCompiledMethod
from research.bench.variants import VARIANTS

ASSISTED = "assisted"
STATIC_COMPILE = "static-compile"
PROMPT_LOOKUP_SIZES = (5, 10, 20)
_ONE_PROMPT = (PROMPT_LOOKUP, ASSISTED, STATIC_COMPILE)


def _best_prompt_lookup(name: str, config: LookaheadConfig) -> Method:
    names = [f"{PROMPT_LOOKUP}-{size}" for size in PROMPT_LOOKUP_SIZES]
    return BestOf(name, make_methods(names, config)[1:])


def _assisted(
    name: str, _config: LookaheadConfig, *, load: Callable[[], PreTrainedModel] | None = None
) -> Method:
    if load is None:
        message = f"method {name!r} needs a draft model: name one with --assistant"
        raise ConfigError(message)
    return AssistedMethod(name, load)


def research_methods(load_assistant: Callable[[], PreTrainedModel] | None = None) -> Mapping[str, MakeMethod]:
    """Return all methods by name, for `make_methods`.

    Args:
        load_assistant: Loads the draft model of `assisted`; None if none was named.
    """
    return {
        **METHODS,
        PROMPT_LOOKUP: _best_prompt_lookup,
        STATIC_COMPILE: lambda name, _config: StaticCompiledMethod(name),
        ASSISTED: partial(_assisted, load=load_assistant),
        **VARIANTS,
        **ABLATED_METHODS,
    }


def serves_batches(method: Method) -> bool:
    """Return whether a method can answer several prompts in one call."""
    return not method.name.startswith(_ONE_PROMPT)

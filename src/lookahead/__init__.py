"""Lookahead: lossless acceleration of LLM inference (after arXiv 2312.12728).

>>> from lookahead import Lookahead, LookaheadConfig
>>> la = Lookahead(LookaheadConfig(decoding_length=16))
>>> ids = model.generate(**inputs, custom_generate=la, max_new_tokens=256)  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lookahead.version import __version__ as __version__

if TYPE_CHECKING:
    from lookahead.config import DraftMode, LookaheadConfig
    from lookahead.drafting.memory.draft_memory import DraftMemory
    from lookahead.errors import LookaheadError
    from lookahead.hf.lookahead import Lookahead
    from lookahead.hf.models.embedded import load_embedded
    from lookahead.hf.support.report import SupportReport
    from lookahead.stats import GenerationStats

# Where each public name lives: loaded on first use, so that `import lookahead` imports no torch.
_HOMES = {
    "DraftMemory": "lookahead.drafting.memory.draft_memory",
    "DraftMode": "lookahead.config",
    "GenerationStats": "lookahead.stats",
    "Lookahead": "lookahead.hf.lookahead",
    "LookaheadConfig": "lookahead.config",
    "LookaheadError": "lookahead.errors",
    "SupportReport": "lookahead.hf.support.report",
    "load_embedded": "lookahead.hf.models.embedded",
}

__all__ = [
    "DraftMemory",
    "DraftMode",
    "GenerationStats",
    "Lookahead",
    "LookaheadConfig",
    "LookaheadError",
    "SupportReport",
    "load_embedded",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module 'lookahead' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""Lookahead as a draft proposer of vLLM.

    vllm serve MODEL --speculative-config '{"method": "custom_class",
        "model": "lookahead.integrations.vllm.Proposer", "num_speculative_tokens": 16}'

vLLM looks the class up here; the modules are imported only then. See docs/deploying.md.
"""

from importlib import import_module

_HOMES = {
    "Proposer": "lookahead.integrations.vllm.proposer",
    "SaltScheduler": "lookahead.integrations.vllm.salt_scheduler",
}
__all__ = ["Proposer", "SaltScheduler"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)

"""`llm_config`: vLLM behind `ray.serve.llm`, with Lookahead's plugin."""

from collections.abc import Mapping
from typing import Any

from lookahead.config import check_integer
from lookahead.errors import ConfigError
from lookahead.integrations.options import IntegrationOptions
from lookahead.integrations.ray.routing import router_config

PROPOSER = "lookahead.integrations.vllm.Proposer"
_MAX_DRAFT = 64


def llm_config(
    model: str,
    *,
    model_id: str | None = None,
    replicas: int = 1,
    draft_tokens: int = 16,
    lookahead: Mapping[str, Any] | None = None,
    engine_kwargs: Mapping[str, Any] | None = None,
    fallback_replicas: int = 2,
) -> dict[str, Any]:
    """Return keyword arguments of `ray.serve.llm.LLMConfig`, for vLLM with Lookahead's plugin.

    >>> from ray.serve.llm import LLMConfig, build_openai_app  # doctest: +SKIP
    >>> config = LLMConfig(**llm_config("/models/m", replicas=2))  # doctest: +SKIP
    >>> app = build_openai_app({"llm_configs": [config]})  # doctest: +SKIP

    Whatever else `LLMConfig` takes (`accelerator_type`, `runtime_env`, …) may be added to the result.

    `ray[llm]` asks for a build of vLLM for CUDA, so no model is served by this in the tests: they look at the
    dictionary alone. By hand it was given to `LLMConfig` of Ray 2.60, which took it.

    Args:
        model: The model's folder or hub id, as vLLM takes it.
        model_id: The name that clients use; None for the model.
        replicas: How many replicas there are.
        draft_tokens: The most tokens that vLLM verifies for a request in a step, the current one excepted.
        lookahead: `IntegrationOptions` of each replica's memory.
        engine_kwargs: What vLLM is told besides.
        fallback_replicas: Further replicas for a tenant (`x-session-id`) whose own one is full.

    Raises:
        ConfigError: A value is not allowed, or `engine_kwargs` sets what is set here.
    """
    check_integer("replicas", replicas, smallest=1, largest=10_000)
    check_integer("draft_tokens", draft_tokens, smallest=1, largest=_MAX_DRAFT)
    check_integer("fallback_replicas", fallback_replicas, smallest=0, largest=10_000)
    options = _checked_options(lookahead)
    given = dict(engine_kwargs or {})
    additional = dict(given.pop("additional_config", None) or {})
    if "speculative_config" in given or "lookahead" in additional:
        message = "engine_kwargs sets speculative_config or lookahead; use draft_tokens and lookahead instead"
        raise ConfigError(message)
    return {
        "model_loading_config": {"model_id": model_id or model, "model_source": model},
        "llm_engine": "vLLM",
        "engine_kwargs": {
            **given,
            "speculative_config": {
                "method": "custom_class",
                "model": PROPOSER,
                "num_speculative_tokens": draft_tokens,
            },
            "additional_config": {**additional, "lookahead": options},
        },
        "deployment_config": {
            "num_replicas": replicas,
            "request_router_config": router_config("tenant", fallback_replicas),
        },
    }


def _checked_options(lookahead: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the plugin's options; the folder of a file is in the cluster, and need not exist here.

    Raises:
        ConfigError: An option is unknown, or its value is not allowed.
    """
    options = dict(lookahead or {})
    file = options.get("memory_file")
    if file is not None and not (isinstance(file, str) and file):
        message = f"memory_file={file!r:.80} is not allowed; give a path, or None"
        raise ConfigError(message)
    IntegrationOptions.of({name: value for name, value in options.items() if name != "memory_file"})
    return options

"""What speculation changes in SGLang's server arguments: the same as for its NGRAM algorithm."""

import logging
from typing import Any

from lookahead.errors import ConfigError

_MAX_RUNNING_REQUESTS = 48
_DRAFT_TOKENS = 12
_DEVICES = ("cuda", "cpu", "xpu")
_log = logging.getLogger("lookahead.sglang")


def settle(arguments: Any) -> None:
    """Set the arguments that are not given, as SGLang does for NGRAM.

    SGLang gives a plugin a recorder of its `ServerArgs`: only attributes that are assigned here reach it, so
    SGLang's own function for NGRAM, which declares its decisions elsewhere, cannot be called.

    Args:
        arguments: The `ServerArgs`, or their recorder.

    Raises:
        ConfigError: The device, attention backend or parallelism verifies no trees.
    """
    _check(arguments)
    if arguments.device == "cpu":
        arguments.disable_overlap_schedule = True  # SGLang has no overlap there
    if arguments.max_running_requests is None:
        arguments.max_running_requests = _MAX_RUNNING_REQUESTS
        _log.warning(
            "at most %d requests run at once; change it by --max-running-requests", _MAX_RUNNING_REQUESTS
        )
    arguments.enable_mixed_chunk = False
    arguments.speculative_eagle_topk = arguments.speculative_ngram_max_bfs_breadth
    if arguments.speculative_num_draft_tokens is None:
        arguments.speculative_num_draft_tokens = _DRAFT_TOKENS
    if arguments.speculative_num_steps is None:
        # No limit of our trees' depth; SGLang reads it for sizes.
        steps = arguments.speculative_num_draft_tokens // arguments.speculative_eagle_topk
        arguments.speculative_num_steps = steps


def _check(arguments: Any) -> None:
    breadth = arguments.speculative_ngram_max_bfs_breadth
    if arguments.device not in _DEVICES:
        message = f"device={arguments.device!r} verifies no draft trees in SGLang; use one of {_DEVICES}"
        raise ConfigError(message)
    if breadth > 1 and arguments.page_size > 1 and arguments.attention_backend != "flashinfer":
        message = (
            f"page_size={arguments.page_size} with attention_backend={arguments.attention_backend!r} "
            "verifies no draft trees in SGLang; use --page-size 1, or --attention-backend flashinfer, or "
            "draft one branch: --speculative-ngram-max-bfs-breadth 1"
        )
        raise ConfigError(message)
    if arguments.attn_dp_size > 1:
        message = (
            f"attn_dp_size={arguments.attn_dp_size} is not allowed: SGLang's NGRAM worker has no DP "
            "attention; use 1, or --dp-size for whole replicas"
        )
        raise ConfigError(message)

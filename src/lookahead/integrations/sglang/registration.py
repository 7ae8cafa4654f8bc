"""The entry point of the plugin: SGLang calls `register` at the start of each of its processes.

It imports neither numba nor our drafting: processes that do not draft must not pay for them.
"""

from typing import Any

NAME = "LOOKAHEAD"
"""The name for `--speculative-algorithm`."""


def register() -> None:
    """Register our algorithm with SGLang. A second call does nothing."""
    # SGLang is there only in its own processes.
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # noqa: PLC0415

    try:
        SpeculativeAlgorithm.from_string(NAME)
    except ValueError:  # it is unknown
        SpeculativeAlgorithm.register(
            NAME, supports_overlap=True, validate_server_args=_check_settings, spec_class=_algorithm_class()
        )(_worker_class)


def _algorithm_class() -> type:
    from sglang.srt.speculative.spec_info import CustomSpecAlgo, SpeculativeAlgorithm  # noqa: PLC0415

    class LookaheadAlgorithm(CustomSpecAlgo):  # type: ignore[misc]  # SGLang has no types here
        """SGLang's NGRAM algorithm with our drafts: its scheduler, KV cache and graphs treat both alike."""

        def is_ngram(self) -> bool:
            """Return that the worker is an NGRAM worker."""
            return True

        def has_draft_kv(self) -> bool:
            """Return that drafts have no keys and values of their own."""
            return False

        def handle_server_args(self, server_args: Any) -> None:
            """Set the server arguments that speculation needs."""
            from lookahead.integrations.sglang.server_arguments import settle  # noqa: PLC0415

            settle(server_args)

        def __getattr__(self, name: str) -> Any:
            # 0.5.23 calls three methods on an algorithm that its class for plugins lacks, `create_future_map`
            # among them. What NGRAM answers is right for us, too.
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(SpeculativeAlgorithm.NGRAM, name)

    return LookaheadAlgorithm


def _check_settings(_server_args: Any) -> None:
    """Refuse wrong settings before the model is loaded."""
    import os  # noqa: PLC0415

    from lookahead.integrations.sglang.settings import options_in  # noqa: PLC0415

    options_in(os.environ)


def _worker_class(_server_args: Any) -> type:
    from lookahead.integrations.sglang.worker import worker_class  # noqa: PLC0415

    return worker_class()

"""transformers' own continuous batching as a way of serving."""

from copy import deepcopy
from typing import Any

from lookahead.bench.serving.measuring import Passes, Recorder, Round
from lookahead.bench.serving.methods import Load, Served, ServingMethod
from lookahead.errors import UnsupportedModelError

_PAGE_TOKENS = 256
_POLL_S = 0.5
_STOP_S = 10
_WARM_UP_TOKENS = 4


class ContinuousBatching(ServingMethod):
    """What `model.generate_batch` does, with requests that arrive over time.

    Args:
        name: Its name.
        served: What is served.
        rows: Requests that are served at once.
    """

    def __init__(self, name: str, served: Served, rows: int) -> None:
        self.name = name
        self._served, self.rows = served, rows

    def serve(self, load: Load) -> Round:
        """Answer all requests.

        Raises:
            UnsupportedModelError: Its thread ended or a request failed.
        """
        untyped: Any = self._served.model  # the library's mixin hides its type
        config: Any = deepcopy(untyped.generation_config)
        config.update(**self._served.settings(load.max_new_tokens))
        settings = self._settings(load)
        with untyped.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=settings, timeout=_STOP_S
        ) as manager:
            self._answer_first(manager, load)
            steps = manager.current_batch
            recorder = load.begin()
            for index, prompt in enumerate(load.prompts):
                recorder.wait_for(index)
                self._add(manager, str(index), prompt, load.max_new_tokens)
            self._collect(manager, recorder)
            steps = manager.current_batch - steps
        return Round(recorder.timelines, Passes(steps))

    def _settings(self, load: Load) -> Any:
        from transformers import ContinuousBatchingConfig  # noqa: PLC0415  older libraries have none

        longest = max(map(len, load.prompts)) + load.max_new_tokens
        pages = -(-longest // _PAGE_TOKENS) + 1
        return ContinuousBatchingConfig(
            page_size=_PAGE_TOKENS,
            num_blocks=pages * self.rows,
            max_requests_per_batch=self.rows,
            allow_block_sharing=self._served.prefix_cache,
        )

    def _add(self, manager: Any, name: str, prompt: Any, max_new_tokens: int) -> None:
        ends = sorted(self._served.end_tokens) or -1
        manager.add_request(
            list(prompt),
            request_id=name,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            record_timestamps=True,
        )

    def _answer_first(self, manager: Any, load: Load) -> None:
        """Answer a short request, which is not measured and begins like no other."""
        self._add(manager, "warm-up", load.prompts[0][::-1], _WARM_UP_TOKENS)
        self._result(manager)

    def _collect(self, manager: Any, recorder: Recorder) -> None:
        for _ in recorder.timelines:
            result = self._result(manager)
            for token, at in zip(result.generated_tokens, result.timestamps, strict=True):
                recorder.put(int(result.request_id), [token], at=at)

    def _result(self, manager: Any) -> Any:
        """Return the next answer.

        Raises:
            UnsupportedModelError: There is none.
        """
        while True:
            result = manager.get_result(timeout=_POLL_S)
            error = manager.background_thread_status.fatal_error
            if result is not None:
                error = result.error
                if error is None and result.is_finished():
                    return result
            if error is not None or not manager.is_running():
                message = f"transformers' continuous batching failed: {error or 'its thread ended'}"
                raise UnsupportedModelError(message)

"""OpenVINO GenAI: job `{"model": FILE, "threads": N, "drafts": BOOL}`; drafts are prompt lookup."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

from research.peers.engines.workers.serving import Generate, serve

_DRAFT_TOKENS, _NGRAM = 5, 3
"""What its documentation recommends."""


def load(job: dict[str, Any]) -> Generate:
    """Return what generates with a GGUF file."""
    import numpy as np  # noqa: PLC0415  only in its environment
    import openvino as ov  # noqa: PLC0415
    import openvino_genai as genai  # noqa: PLC0415

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": job["threads"]}
    if job["drafts"]:
        settings["prompt_lookup"] = True
    pipeline: Any = genai.LLMPipeline(job["model"], "CPU", **settings)

    def generate(prompt_ids: list[int], max_new_tokens: int) -> Iterator[int]:
        found: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()

        class Streamer(genai.StreamerBase):  # type: ignore[misc]  # it is in another environment
            def write(self, token: int | list[int]) -> Any:
                found.put([token] if isinstance(token, int) else list(token))
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                """Do nothing: the thread says when the answer ends."""

        config = genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = max_new_tokens, False
        config.eos_token_id = pipeline.get_generation_config().eos_token_id
        if job["drafts"]:
            config.num_assistant_tokens, config.max_ngram_size = _DRAFT_TOKENS, _NGRAM
        ids = np.array([prompt_ids], np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))

        def run() -> None:
            try:
                pipeline.generate(inputs, config, Streamer())
            finally:
                found.put(None)

        thread = threading.Thread(target=run)
        thread.start()
        while (tokens := found.get()) is not None:
            yield from tokens
        thread.join()

    return generate


if __name__ == "__main__":
    serve(load)

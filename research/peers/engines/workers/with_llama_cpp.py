"""llama.cpp by llama-cpp-python: job `{"model": FILE, "threads": N, "context": N}`."""

from collections.abc import Iterator
from typing import Any

from research.peers.engines.workers.serving import Generate, serve


def load(job: dict[str, Any]) -> Generate:
    """Return what generates with a GGUF file."""
    from llama_cpp import Llama  # noqa: PLC0415  only in its environment

    model: Any = Llama(
        job["model"],
        n_ctx=job["context"],
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
        verbose=False,
    )

    def generate(prompt_ids: list[int], max_new_tokens: int) -> Iterator[int]:
        for count, token in enumerate(model.generate(prompt_ids, temp=0.0, reset=True), start=1):
            yield int(token)
            if count == max_new_tokens or token == model.token_eos():
                return

    def from_the_beginning(prompt_ids: list[int], max_new_tokens: int) -> Iterator[int]:
        model.reset()  # else it reuses what the prompt before began with
        return generate(prompt_ids, max_new_tokens)

    return from_the_beginning


if __name__ == "__main__":
    serve(load)

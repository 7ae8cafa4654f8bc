"""vLLM on the CPU: job `{"model": FOLDER, "threads": N, "context": N, "drafts": "suffix" or null}`."""

import itertools
from collections.abc import Iterator
from typing import Any

from research.peers.engines.workers.serving import Generate, serve

_DRAFT_TOKENS = 16


def load(job: dict[str, Any]) -> Generate:
    """Return what generates with a folder of transformers."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415  only in its environment

    drafts = job["drafts"]
    model: Any = LLM(
        job["model"],
        dtype="bfloat16",
        max_num_seqs=1,
        max_model_len=job["context"],
        enable_prefix_caching=False,
        speculative_config=drafts and {"method": drafts, "num_speculative_tokens": _DRAFT_TOKENS},
    )
    numbers = itertools.count()

    def generate(prompt_ids: list[int], max_new_tokens: int) -> Iterator[int]:
        engine = model.llm_engine
        parameters = SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
        engine.add_request(str(next(numbers)), {"prompt_token_ids": prompt_ids}, parameters)
        given = 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                tokens = list(output.outputs[0].token_ids)
                yield from tokens[given:]
                given = len(tokens)

    return generate


if __name__ == "__main__":
    serve(load)

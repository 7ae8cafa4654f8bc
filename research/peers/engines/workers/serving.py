"""What all workers share: jobs and answers are JSON, one on each line; what systems print goes to stderr."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Generate = Callable[[list[int], int], Iterator[int]]
"""Yields the tokens of a greedy answer to a prompt of tokens, the end token included, as they are known."""


def serve(load: Callable[[dict[str, Any]], Generate]) -> None:
    """Load a system as the first argument says, then answer prompts until the input ends.

    Args:
        load: Returns what generates.
    """
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what systems print must not be taken for results

    def tell(result: dict[str, Any]) -> None:
        results.write(json.dumps(result) + "\n")
        results.flush()

    begin = time.perf_counter()
    generate = load(json.loads(sys.argv[1]))
    tell({"load_s": time.perf_counter() - begin})
    for line in sys.stdin:
        job = json.loads(line)
        tell(answered(generate, job["prompt_ids"], job["max_new_tokens"]))


def answered(generate: Generate, prompt_ids: list[int], max_new_tokens: int) -> dict[str, Any]:
    """Return the tokens of an answer, the seconds to its first token and to its end."""
    begin = time.perf_counter()
    tokens: list[int] = []
    first = None
    for token in generate(prompt_ids, max_new_tokens):
        if first is None:
            first = time.perf_counter() - begin
        tokens.append(token)
    return {"tokens": tokens, "first_s": first, "seconds": time.perf_counter() - begin}

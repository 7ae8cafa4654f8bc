"""Measure what the engine's scheduler and prefix cache do to the time to the first token.

    python scripts/engine_latency.py --dtype bfloat16 --json benchmarks/engine-latency.json

`behind` submits a prompt of 50 tokens while one of 2,000 is being read, and counts its time in chunks of
`max_step_tokens` tokens, each as long as a step that reads one. `prefix` reads a prompt of 1,600 tokens whose
first 1,500 a request before it had, with the prefix cache and without.
"""

import argparse
import json
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import lookahead
from lookahead import Lookahead
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.files import write_json
from lookahead.hf.models.loading import load_model

LONG, SHORT, SHARED, WHOLE = 2000, 50, 1500, 1600


def random_tokens(seed: int, count: int) -> list[int]:
    """Return tokens at random."""
    chance = random.Random(seed)
    return [chance.randrange(100, 40_000) for _ in range(count)]


def first_token_seconds(engine: Any, prompt: list[int]) -> float:
    """Return how long the first token of an answer takes."""
    begin = time.perf_counter()
    stream = engine.submit(Request(prompt_ids=prompt, max_tokens=1))
    stream.result()
    return time.perf_counter() - begin


def behind(model: Any, pairs: int) -> dict[str, Any]:
    """Return the time of a short prompt behind a long one, in times of a chunk."""
    settings = EngineSettings(prefix_cache=False)
    ratios = []
    with Lookahead().engine(model, settings=settings) as engine:
        for turn in range(pairs):
            chunk_s = first_token_seconds(engine, random_tokens(turn, settings.max_step_tokens))
            long = engine.submit(Request(prompt_ids=random_tokens(turn, LONG), max_tokens=1))
            time.sleep(0.5 * chunk_s)  # its first chunk is being read
            ratios.append(first_token_seconds(engine, random_tokens(turn + 1000, SHORT)) / chunk_s)
            long.result()
    return {
        "chunk_tokens": settings.max_step_tokens,
        "median_chunks": statistics.median(ratios),
        "all": ratios,
    }


def prefix(model: Any, pairs: int) -> dict[str, Any]:
    """Return the time of a prompt whose beginning is in the prefix cache ÷ that without."""
    ratios = []
    with (
        Lookahead().engine(model, settings=EngineSettings(prefix_cache=True)) as cached,
        Lookahead().engine(model, settings=EngineSettings(prefix_cache=False)) as plain,
    ):
        for turn in range(pairs):
            shared = random_tokens(turn, SHARED)
            first_token_seconds(cached, [*shared, *random_tokens(turn + 500, 10)])
            prompt = [*shared, *random_tokens(turn + 1000, WHOLE - SHARED)]
            without = first_token_seconds(plain, prompt)
            ratios.append(first_token_seconds(cached, prompt) / without)
    return {
        "cached_tokens": SHARED,
        "prompt_tokens": WHOLE,
        "median": statistics.median(ratios),
        "all": ratios,
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=None, help="a folder or GGUF file; the embedded model if left out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, _ = load_model(given.model, dtype=given.dtype)
    report = {
        "lookahead": lookahead.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "dtype": given.dtype,
        "threads": given.threads,
        "behind": behind(model, given.pairs),
        "prefix": prefix(model, given.pairs),
    }
    print(json.dumps(report, indent=1))
    if given.json:
        write_json(given.json, report)


if __name__ == "__main__":
    main()

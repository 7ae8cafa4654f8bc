"""Check that the engine's texts are those of `la.generate` alone, whoever else is served.

    python scripts/verify_engine.py ROWS.jsonl --dtype bfloat16 --limit 24 --json benchmarks/engine-texts.json

Each prompt is answered alone by `la.generate`, greedy and sampled with a seed. Then the engine answers all of
them, for every number of rows, prefix cache on and off, memory empty, warm and full of junk, while requests
arrive at random moments and others are cancelled. In float32 `generate` itself is compared, too.
"""

import argparse
import platform
import random
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers

import lookahead
from lookahead import Lookahead
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.engine.request import Request, Sampling
from lookahead.engine.settings import EngineSettings
from lookahead.files import write_json
from lookahead.hf.models.loading import encode_prompt, load_model
from lookahead.hf.serving.arguments import generate_arguments

MEMORIES = ("empty", "warm", "junk")


def requests_of(ids: Sequence[list[int]], new_tokens: int, *, sampled: bool) -> list[Request]:
    """Return a request for each prompt."""
    return [
        Request(
            prompt_ids=prompt,
            max_tokens=new_tokens,
            sampling=Sampling(temperature=0.8, top_p=0.95, seed=seed) if sampled else Sampling(),
        )
        for seed, prompt in enumerate(ids)
    ]


def text_alone(generate: Any, model: Any, request: Request) -> list[int]:
    """Return the answer of a call for one request."""
    if request.sampling.seed is not None:
        torch.manual_seed(request.sampling.seed)
    answer: list[int] = generate(**generate_arguments(model, request))[0, len(request.prompt_ids) :].tolist()
    return answer


def served(engine: Any, requests: Sequence[Request], seed: int) -> list[list[int]]:
    """Return the engine's answers; requests arrive at random moments and others are cancelled."""
    chance, streams = random.Random(seed), []
    for request in requests:
        streams.append(engine.submit(request))
        if chance.random() < 0.25:
            other = engine.submit(request)
            if chance.random() < 0.5:
                other.get()
            other.cancel()
        time.sleep(chance.random() * 0.1)
    return [list(stream.result().tokens) for stream in streams]


def junk_memory(la: Lookahead, vocabulary: int) -> None:
    """Fill a memory with tokens at random."""
    chance = random.Random(0)
    la.memory.warm([[chance.randrange(vocabulary) for _ in range(400)] for _ in range(50)])


def compared(
    model: Any, requests: Sequence[Request], expected: Sequence[list[int]], rows: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield how many texts differ, for each setting."""
    for row_count, prefix_cache, memory in product(rows, (True, False), MEMORIES):
        la = Lookahead()
        if memory == "junk":
            junk_memory(la, model.config.vocab_size)
        with la.engine(
            model, settings=EngineSettings(max_rows=row_count, prefix_cache=prefix_cache)
        ) as engine:
            if memory == "warm":
                served(engine, requests, seed=1)
            texts = served(engine, requests, seed=row_count)
            stats = engine.stats()
        pairs = zip(texts, expected, strict=True)
        yield {
            "rows": row_count,
            "prefix_cache": prefix_cache,
            "memory": memory,
            "differing": sum(found != wanted for found, wanted in pairs),
            "cancelled": stats.finished.get("cancelled", 0),
            "cached_tokens": stats.cached_tokens,
            "accepted_tokens": stats.generation.accepted_tokens,
        }


def main() -> int:
    """Compare, write the report, and return 1 if any text differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows_file", type=Path, help="prompts as JSON lines")
    parser.add_argument("--model", default=None, help="a folder or GGUF file; the embedded model if left out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = load_model(given.model, dtype=given.dtype)
    prompts = [row.prompt for row in limit_rows(read_rows(given.rows_file), given.limit)]
    ids = [encode_prompt(tokenizer, prompt, model)["input_ids"][0].tolist() for prompt in prompts]
    report: dict[str, Any] = {
        "lookahead": lookahead.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "dtype": given.dtype,
        "prompts": len(ids),
        "new_tokens": given.new_tokens,
        "runs": [],
    }
    la = Lookahead()
    for sampled in (False, True):
        requests = requests_of(ids, given.new_tokens, sampled=sampled)
        expected = [text_alone(lambda **call: la.generate(model, **call), model, one) for one in requests]
        if given.dtype == "float32":
            of_generate = [text_alone(model.generate, model, one) for one in requests]
            pairs = zip(of_generate, expected, strict=True)
            report["runs"].append(
                {"sampled": sampled, "with": "generate", "differing": sum(a != b for a, b in pairs)}
            )
        for run in compared(model, requests, expected, given.rows):
            report["runs"].append({"sampled": sampled, **run})
            print(report["runs"][-1], flush=True)
    if given.json:
        write_json(given.json, report)
    differing = sum(run["differing"] for run in report["runs"])
    print(f"{differing} texts differ in {len(report['runs'])} runs of {len(ids)} prompts")
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())

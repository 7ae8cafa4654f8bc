"""Measure what HTTP costs: the CPU time of the server beside that of its engine alone, for the same requests.

    python scripts/http_overhead.py ROWS.jsonl --json benchmarks/http-overhead.json

The prompts are answered at 8 rows, by the engine alone and over HTTP in turns: streamed, one connection for
each request, by a client in a process of its own. Counted is the CPU time of this process, which has the
engine, or the engine and the server, and the wall time. Requests leave nothing behind, so that each turn does
the same.
"""

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from lookahead import Lookahead
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.bench.run.environment import describe_machine, load_average
from lookahead.engine.request import Request
from lookahead.engine.settings import EngineSettings
from lookahead.files import write_json
from lookahead.hf.models.loading import encode_prompt, load_model
from lookahead.server.app import create_app
from lookahead.server.served_model import served_model
from lookahead.server.settings import ServerSettings

ROWS = 8


async def _ask_all(url: str, prompts: list[str], tokens: int) -> int:
    async with httpx.AsyncClient(timeout=600) as http:

        async def ask(prompt: str) -> int:
            body = {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "lookahead": {"remember": False},
            }
            chunks = 0
            async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    chunks += line.startswith("data: {")
            return chunks

        return sum(await asyncio.gather(*map(ask, prompts)))


def client(url: str, prompts: list[str], tokens: int, calls: Any, answers: Any) -> None:
    """Ask all prompts at once whenever it is called."""
    while calls.get():
        answers.put(asyncio.run(_ask_all(url, prompts, tokens)))


def seconds_of(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the CPU seconds of this process, and the wall seconds, while something is done."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def ratios_of(seconds: dict[str, list[tuple[float, float]]], column: int) -> dict[str, float]:
    """Return the ratio of the time over HTTP to that of the engine alone, by pair."""
    ratios = sorted(
        http[column] / alone[column] for http, alone in zip(seconds["http"], seconds["alone"], strict=True)
    )
    return {"median": statistics.median(ratios), "smallest": ratios[0], "largest": ratios[-1]}


def main() -> None:
    """Measure in turns, and report the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = load_average()
    torch.set_num_threads(2)
    model, tokenizer = load_model("embedded", options.dtype, "cpu")
    prompts = [row.prompt for row in limit_rows(read_rows(options.rows), options.limit)]
    ids = [encode_prompt(tokenizer, prompt, model)["input_ids"][0].tolist() for prompt in prompts]
    settings = EngineSettings(max_rows=ROWS, prefix_cache=False)
    lookahead = Lookahead()
    with lookahead.engine(model, tokenizer, settings) as engine:
        described = served_model("embedded", model, tokenizer, engine.max_request_tokens)
        app = create_app(engine, described, lookahead.memory, ServerSettings(model_name="embedded"))
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        context = get_context("spawn")
        calls, answers = context.Queue(), context.Queue()
        asking = context.Process(
            target=client, args=(url, prompts, options.max_new_tokens, calls, answers), daemon=True
        )
        asking.start()

        def over_http() -> None:
            calls.put(True)
            answers.get()

        def alone() -> None:
            streams = [
                engine.submit(
                    Request(
                        prompt_ids=prompt,
                        max_tokens=options.max_new_tokens,
                        ignores_end_of_text=True,
                        remember=False,
                    )
                )
                for prompt in ids
            ]
            for stream in streams:
                for _ in stream:
                    pass

        turns = {"alone": alone, "http": over_http}
        for work in turns.values():
            work()
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for pair in range(options.pairs):
            for name in list(turns)[:: 1 if pair % 2 else -1]:
                seconds[name].append(seconds_of(turns[name]))
        calls.put(False)
        asking.join()
        server.should_exit = True
    report = {
        "kind": "http overhead",
        "environment": describe_machine(load),
        "command": " ".join(sys.argv),
        "rows": ROWS,
        "prompts": len(prompts),
        "max_new_tokens": options.max_new_tokens,
        "cpu_and_wall_seconds": seconds,
        "cpu_http_over_alone": ratios_of(seconds, 0),
        "wall_http_over_alone": ratios_of(seconds, 1),
    }
    if options.json is not None:
        write_json(options.json, report)
    print(json.dumps({name: report[name] for name in report if name.endswith("alone")}, indent=2))


if __name__ == "__main__":
    main()

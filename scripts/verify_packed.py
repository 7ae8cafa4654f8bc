"""Check packed weights against the same weights dequantized: texts, times of steps, memory, loading.

    python scripts/verify_packed.py ROWS.jsonl --model MODEL.gguf --threads 2 --json benchmarks/packed.json

`texts` compares greedy answers and their logits bit by bit. `steps` takes plain steps (of one token) and
steps of drafts in turns and gives the medians of the time in the model. `memory` loads the model in a process
of its own for each way, answers a prompt and reads the resident set.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lookahead
from lookahead import Lookahead, LookaheadConfig
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.bench.run.environment import describe_machine, load_average
from lookahead.files import write_json
from lookahead.hf.models.loading import encode_prompt, load_model

WAYS = ("packed", "dequantized")
PARTS = ("texts", "steps", "memory")
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


def loaded(name: str, way: str) -> tuple[Any, Any]:
    """Return a model in bfloat16 and its tokenizer."""
    return load_model(name, "bfloat16", "cpu", packed=way == "packed")


def compared_texts(
    models: dict[str, Any], tokenizer: Any, prompts: Sequence[str], tokens: int
) -> dict[str, Any]:
    """Return how many answers, and how many answers' logits, are the same bits."""
    same_texts = same_logits = 0
    for prompt in prompts:
        found = []
        for model in models.values():
            inputs = encode_prompt(tokenizer, prompt, model)
            found.append(
                Lookahead().generate(
                    model,
                    **inputs,
                    **GREEDY,
                    max_new_tokens=tokens,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            )
        same_texts += torch.equal(found[0].sequences, found[1].sequences)
        logits = [torch.stack(list(answer.logits)) for answer in found]
        same_logits += logits[0].shape == logits[1].shape and torch.equal(*logits)
    return {
        "prompts": len(prompts),
        "tokens": tokens,
        "identical_texts": same_texts,
        "identical_logits": same_logits,
    }


def step_times(models: dict[str, Any], tokenizer: Any, prompt: str, turns: int) -> list[dict[str, Any]]:
    """Return medians of the time of a step in the model, for plain steps and for drafts of two sizes."""
    found = []
    for size in (1, 8, 16):
        times: dict[str, list[float]] = {way: [] for way in models}
        for turn in range(turns + 1):
            for way, model in models.items():
                answered: list[Any] = []
                Lookahead(LookaheadConfig(decoding_length=size)).generate(
                    model,
                    **encode_prompt(tokenizer, prompt, model),
                    **GREEDY,
                    max_new_tokens=24,
                    min_new_tokens=24,
                    on_stats=answered.append,
                )
                if turn > 0:  # the first one probes and compiles
                    times[way].append(1e3 * answered[0].model_s / answered[0].row_steps)
        medians = {way: round(statistics.median(values), 3) for way, values in times.items()}
        ratios = [one / other for one, other in zip(times["packed"], times["dequantized"], strict=True)]
        found.append(
            {
                "decoding_length": size,
                "turns": turns,
                "step_ms": medians,
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
            }
        )
    return found


def resident_bytes() -> int:
    """Return the resident set of this process, mapped pages included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def report_memory(name: str, way: str) -> None:
    """Load a model, answer a prompt and print the memory, as the process of one way."""
    before, begin = resident_bytes(), time.perf_counter()
    model, tokenizer = loaded(name, way)
    load_s = time.perf_counter() - begin
    inputs = encode_prompt(tokenizer, "Name three rivers.", model)
    Lookahead(LookaheadConfig(decoding_length=8)).generate(model, **inputs, **GREEDY, max_new_tokens=32)
    print(json.dumps({"load_s": round(load_s, 3), "before": before, "after": resident_bytes()}))


def memory_of_ways(name: str, threads: int) -> dict[str, Any]:
    """Return the resident set of a process of each way, before loading and after an answer."""
    found: dict[str, Any] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--model", name, "--threads", str(threads), "--child", way]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # ourselves
        found[way] = json.loads(answer.stdout.splitlines()[-1])
    found["resident_ratio"] = round(found["packed"]["after"] / found["dequantized"]["after"], 3)
    return found


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="?", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the parts and report them; fail if a text or a logit differs."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.child:
        report_memory(given.model, given.child)
        return
    parts = given.part or PARTS
    report: dict[str, Any] = {"model": Path(given.model).name, "version": lookahead.__version__}
    report["environment"] = {**describe_machine(load_average()), "threads": given.threads}
    if "memory" in parts:
        report["memory"] = memory_of_ways(given.model, given.threads)
    models, tokenizer = {}, None
    for way in WAYS:
        models[way], tokenizer = loaded(given.model, way)
    prompts = ["Explain how rain forms."]
    if given.rows is not None:
        prompts = [row.prompt for row in limit_rows(read_rows(given.rows), given.prompts)]
    if "steps" in parts:
        report["steps"] = step_times(models, tokenizer, prompts[0], given.turns)
    if "texts" in parts:
        report["texts"] = compared_texts(models, tokenizer, prompts, given.tokens)
    print(json.dumps(report, indent=1))
    if given.json:
        write_json(given.json, report)
    texts = report.get("texts")
    if texts and not texts["prompts"] == texts["identical_texts"] == texts["identical_logits"]:
        sys.exit("texts or logits differ")


if __name__ == "__main__":
    main()

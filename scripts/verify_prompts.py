"""Check how prompts are read: the time to the first token, and texts alone and in padded batches.

    python scripts/verify_prompts.py --dtype bfloat16 --threads 2 --json benchmarks/first-token.json
    python scripts/verify_prompts.py ROWS.jsonl --dtype bfloat16 --part batches --json benchmarks/batches.json

`time` reads random tokens with `generate` and with Lookahead in turns and compares the times of each pair;
beside it stands the share of the machine's peak, that of a large product in the same turn. `batches` compares
the greedy answer to each prompt alone with that in a batch of four, padded on the left.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import lookahead
from lookahead import Lookahead
from lookahead.backends.cpu.kernels.amx import may_use_tiles
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.files import write_json
from lookahead.hf.models.loading import encode_prompt, load_model

PEAK_SIZE = 2048
BATCH = 4
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def first_token_times(model: Any, tokens: int, pairs: int) -> dict[str, Any]:
    """Return medians of the time to the first token, of ratios and of shares of the peak."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(100, 40_000, (1, tokens), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 1, **GREEDY}
    left = torch.randn(PEAK_SIZE, PEAK_SIZE).to(model.dtype)
    la = Lookahead()
    la.generate(model, **inputs)
    model.generate(**inputs)
    turns = []
    for _ in range(pairs):
        theirs = seconds_of(lambda: model.generate(**inputs))
        ours = seconds_of(lambda: la.generate(model, **inputs))
        peak = 2 * PEAK_SIZE**3 / min(seconds_of(lambda: left @ left) for _ in range(3))
        turns.append((ours, theirs, flops_of(model, tokens) / ours / peak))
    return {
        "tokens": tokens,
        "pairs": pairs,
        "lookahead_s": round(statistics.median(turn[0] for turn in turns), 4),
        "generate_s": round(statistics.median(turn[1] for turn in turns), 4),
        "ratio": round(statistics.median(turn[0] / turn[1] for turn in turns), 3),
        "ratios": [round(turn[0] / turn[1], 3) for turn in turns],
        "share_of_peak": round(statistics.median(turn[2] for turn in turns), 3),
    }


def flops_of(model: Any, tokens: int) -> float:
    """Return the operations of reading a prompt: products with the layers' weights, and causal attention."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(parameter.numel() for parameter in model.model.layers.parameters())
    attention = 2 * tokens * config.num_hidden_layers * config.num_attention_heads * width
    return 2.0 * tokens * weights + float(tokens * attention)


def differing_answers(model: Any, tokenizer: Any, prompts: Sequence[str], new_tokens: int) -> dict[str, Any]:
    """Return how many answers differ between a prompt alone and in a padded batch."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    ids = [encode_prompt(tokenizer, prompt, model)["input_ids"][0] for prompt in prompts]
    wanted: dict[str, Any] = {**GREEDY, "pad_token_id": tokenizer.pad_token_id, "max_new_tokens": new_tokens}
    differing = []
    for begin in range(0, len(ids), BATCH):
        group = ids[begin : begin + BATCH]
        padded = tokenizer.pad({"input_ids": [one.tolist() for one in group]}, return_tensors="pt")
        together = Lookahead().generate(model, **padded, **wanted)[:, padded["input_ids"].shape[1] :]
        for row, prompt in enumerate(group):
            mask = torch.ones_like(prompt[None])
            alone = Lookahead().generate(model, prompt[None], attention_mask=mask, **wanted)[0, len(prompt) :]
            if not torch.equal(together[row, : len(alone)], alone):
                differing.append(begin + row)
    return {"answers": len(ids), "differing": differing, "batch": BATCH, "new_tokens": new_tokens}


def main() -> None:
    """Measure or compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="?", type=Path, help="prompts as JSON lines, for `batches`")
    parser.add_argument("--part", choices=("time", "batches"), default="time")
    parser.add_argument("--model", default=None, help="a folder or GGUF file; the embedded model if left out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[50, 700, 2000, 8000])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = load_model(given.model, dtype=given.dtype)
    report: dict[str, Any] = {
        "lookahead": lookahead.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": platform.processor() or platform.machine(),
        "tile_registers": may_use_tiles(),
        "model": given.model and Path(given.model).name,
        "dtype": given.dtype,
        "threads": given.threads,
    }
    if given.part == "time":
        report["first_token"] = [first_token_times(model, tokens, given.pairs) for tokens in given.tokens]
    else:
        prompts = [row.prompt for row in limit_rows(read_rows(given.rows), given.limit)]
        report["batches"] = differing_answers(model, tokenizer, prompts, given.new_tokens)
    print(json.dumps(report, indent=1))
    if given.json:
        write_json(given.json, report)


if __name__ == "__main__":
    main()

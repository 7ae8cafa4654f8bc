"""Check with the embedded model in float32 that Lookahead gives the same tokens as `model.generate`.

    python scripts/verify_lossless.py ROWS.jsonl --json benchmarks/lossless.json

It generates greedily in each draft mode, with a memory that is empty, warm (with these same answers) and full
of junk, and it samples with the same seed. Rows are taken in equal shares from every category.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
import transformers

import lookahead
from lookahead import DraftMode, Lookahead, LookaheadConfig, load_embedded
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.hf.models.loading import encode_prompt

STATES = ("empty", "warm", "junk")
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.1}
SEED = 1234


def prepared(mode: DraftMode, state: str, answers: list[list[int]], vocabulary_size: int) -> Lookahead:
    """Return a Lookahead with a memory in one of the three states."""
    la = Lookahead(LookaheadConfig(draft_mode=mode, max_bytes=2**22))
    if state == "warm":
        texts = answers
    elif state == "junk":
        texts = np.random.default_rng(0).integers(0, vocabulary_size, (200, 100)).tolist()
    else:
        texts = []
    la.memory.warm(texts)
    return la


def main() -> None:
    """Run every combination, print a line for each, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_embedded(dtype=torch.float32)
    rows = limit_rows(read_rows(arguments.rows), arguments.prompts)
    prompts = [encode_prompt(tokenizer, row.prompt, model) for row in rows]
    settings = {"max_new_tokens": arguments.new_tokens}
    results = []

    def compare(name: str, expected: list[list[int]], la: Lookahead, **generation: object) -> None:
        same = 0
        for inputs, tokens in zip(prompts, expected, strict=True):
            torch.manual_seed(SEED)
            actual = model.generate(**inputs, custom_generate=la, **settings, **generation)
            same += actual[0].tolist() == tokens
        length = la.stats.mean_acceptance_length
        results.append(
            {"case": name, "identical": same, "of": len(prompts), "mean_acceptance_length": round(length, 3)}
        )
        print(f"{name}: {same} of {len(prompts)} identical, {length:.2f} tokens per step", flush=True)

    def answered(**generation: object) -> list[list[int]]:
        texts = []
        for inputs in prompts:
            torch.manual_seed(SEED)
            texts.append(model.generate(**inputs, **settings, **generation)[0].tolist())
        return texts

    greedy = answered(do_sample=False)
    answers = [text[inputs["input_ids"].shape[1] :] for text, inputs in zip(greedy, prompts, strict=True)]
    for mode in DraftMode:
        for state in STATES:
            la = prepared(mode, state, answers, model.config.vocab_size)
            compare(f"greedy, {mode.value}, {state} memory", greedy, la, do_sample=False)
    compare("sampling, hierarchical, empty memory", answered(**SAMPLING), Lookahead(), **SAMPLING)
    if arguments.json:
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "model": "SmolLM2-135M-Instruct",
            "dtype": "float32",
            "new_tokens": arguments.new_tokens,
            "threads": arguments.threads,
            "hardware": platform.processor() or platform.machine(),
            "versions": {
                "lookahead": lookahead.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "sampling": SAMPLING,
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

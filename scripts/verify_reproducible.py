"""Check that `reproducible=True` makes text in bfloat16 or float16 independent of drafts.

    python scripts/verify_reproducible.py ROWS.jsonl --no-compiled-cpu --json benchmarks/reproducible.json

Greedy, and sampling with a seed, it compares decoding lengths 8 and 16, and memories that are warm (with
these same answers) and full of junk, with decoding length 1 and an empty memory. Without `reproducible`,
greedy, it compares a warm memory with an empty one, and `generate` with Lookahead and with itself in batches
of two. At the first difference of greedy answers it records the margin: the lead of the first answer's token
over the other's. A large margin cannot come from rounding.
"""

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import lookahead
from lookahead import Lookahead, LookaheadConfig
from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.files import atomic_write
from lookahead.hf.models.loading import encode_prompt, load_model, load_tokenizer
from lookahead.hf.models.random_weights import random_model

DRAFTED = (("empty", 1), ("empty", 8), ("empty", 16), ("warm", 16), ("junk", 16))
DRAFTED_WITHOUT = (("empty", 16), ("warm", 16))
"""Memory and decoding length of each run; the others are compared with the first."""
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
SEED = 1234
MARGIN_BINS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Upper bound of each bin; the first bin holds exact ties."""
KEPT_SCORES = 16
PARTS = ("greedy", "sampling", "without", "generate")
"""Reproducible text, greedy and sampled; text that is not; and `generate` in batches of two."""

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answer:
    """The tokens, and the largest scores of each step by token."""

    tokens: list[int]
    scores: list[dict[int, float]]


class Check:
    """The answers to some prompts, and how they differ by memory and decoding length."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        if arguments.random_weights is None:
            self.model, tokenizer = load_model(arguments.model, dtype=arguments.dtype)
        else:
            tokenizer = load_tokenizer(arguments.model)
            self.model = random_model(arguments.random_weights, arguments.dtype, layers=arguments.layers)
        rows = limit_rows(read_rows(arguments.rows), arguments.prompts)
        self.prompts = [encode_prompt(tokenizer, row.prompt, self.model) for row in rows]
        ends = self.model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.limit = {"max_new_tokens": arguments.new_tokens, "pad_token_id": tokenizer.pad_token_id or 0}
        self.drafted: list[Answer] = []
        """Lookahead's answers without `reproducible`, with an empty memory."""
        self.results: list[dict[str, Any]] = []

    def answer(self, generate: Callable[..., Any], inputs: Inputs, settings: dict[str, Any]) -> Answer:
        """Return the answer of the first row; sampling starts from the seed."""
        return self.rows_of(generate, inputs, settings)[0]

    def rows_of(self, generate: Callable[..., Any], inputs: Inputs, settings: dict[str, Any]) -> list[Answer]:
        """Return the answers of all rows."""
        torch.manual_seed(SEED)
        found = generate(**inputs, **self.limit, **settings, return_dict_in_generate=True, output_scores=True)
        answers = []
        for row, sequence in enumerate(found.sequences[:, inputs["input_ids"].shape[1] :].tolist()):
            ends = [index for index, token in enumerate(sequence) if token in self.ends]
            tokens = sequence[: ends[0] + 1] if ends else sequence
            largest = [step[row].topk(KEPT_SCORES) for step in found.scores[: len(tokens)]]
            scores = [dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)) for top in largest]
            answers.append(Answer(tokens, scores))
        return answers

    def answers(self, name: str, generate: Callable[..., Any], settings: dict[str, Any]) -> list[Answer]:
        """Answer all prompts, and record the speed."""
        began = time.perf_counter()
        found = [self.answer(generate, inputs, settings) for inputs in self.prompts]
        self.note(name, found, time.perf_counter() - began)
        return found

    def save(self) -> None:
        """Write the results so far, since a long run may be interrupted."""
        if self.arguments.json:
            with atomic_write(self.arguments.json) as partial:
                partial.write_text(json.dumps(report_of(self), indent=1) + "\n", encoding="utf-8")

    def note(self, name: str, found: list[Answer], seconds: float) -> None:
        """Add the record of a case."""
        tokens = sum(len(answer.tokens) for answer in found)
        self.results.append({"case": name, "tokens": tokens, "tokens_per_s": round(tokens / seconds, 2)})

    def compare(self, expected: list[Answer], found: list[Answer], *, with_margins: bool) -> None:
        """Add to the last case how many answers differ, and the margins at their first differences."""
        pairs = [pair for pair in zip(expected, found, strict=True) if pair[0].tokens != pair[1].tokens]
        result = self.results[-1] | {"differ": len(pairs), "of": len(found)}
        if with_margins:
            result["margins_where_they_part"] = histogram([margin_where_they_part(*pair) for pair in pairs])
        self.results[-1] = result
        self.save()
        print(f"{result['case']}: {len(pairs)} of {len(found)} differ", flush=True)

    def of_lookahead(self, name: str, settings: dict[str, Any], *, reproducible: bool) -> None:
        """Compare Lookahead's answers over memories and decoding lengths."""
        expected: list[Answer] = []
        for state, decoding_length in DRAFTED if reproducible else DRAFTED_WITHOUT:
            config = LookaheadConfig(
                decoding_length=decoding_length,
                reproducible=reproducible,
                compiled_cpu=not self.arguments.no_compiled_cpu,
            )
            la = Lookahead(config)
            if state == "warm":
                la.memory.warm([answer.tokens for answer in expected])
            elif state == "junk":
                vocabulary = self.model.config.get_text_config().vocab_size
                la.memory.warm(np.random.default_rng(0).integers(0, vocabulary, (200, 100)).tolist())
            case = f"reproducible={reproducible}, {name}, {state} memory, decoding length {decoding_length}"

            def generate(la: Lookahead = la, **inputs: object) -> Any:
                return la.generate(self.model, **inputs)

            found = self.answers(case, generate, settings)
            expected = expected or found
            if not reproducible and state == "empty":
                self.drafted = found
            if found is not expected:
                self.compare(expected, found, with_margins=settings is GREEDY)
            self.results[-1]["mean_acceptance_length"] = round(la.stats.mean_acceptance_length, 3)

    def of_generate(self) -> None:
        """Compare `generate` with Lookahead, and with itself in batches of two."""
        generate: Callable[..., Any] = self.model.generate
        expected = self.answers("generate, greedy", generate, GREEDY)
        if self.drafted:
            name = "reproducible=False, greedy, empty memory, decoding length 16, against generate"
            self.results.append({"case": name})
            self.compare(expected, self.drafted, with_margins=True)
        found: list[Answer] = []
        began = time.perf_counter()
        for pair in batched(self.prompts, 2):
            inputs = {name: padded_left([inputs[name] for inputs in pair]) for name in pair[0]}
            found += self.rows_of(generate, inputs, GREEDY)
        self.note("generate, greedy, in batches of two", found, time.perf_counter() - began)
        self.compare(expected, found, with_margins=True)


def batched(prompts: list[Inputs], size: int) -> list[list[Inputs]]:
    """Return the prompts in groups of a size."""
    return [prompts[first : first + size] for first in range(0, len(prompts), size)]


def padded_left(rows: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate [1, L] tensors, padded with zeros on the left."""
    longest = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows])


def margin_where_they_part(expected: Answer, found: Answer) -> float:
    """Return the lead of the expected token's score over the other's at the first difference."""
    pairs = zip(expected.tokens, found.tokens, strict=False)  # neither is a prefix: ends are tokens, too
    position = next(position for position, (token, other) in enumerate(pairs) if token != other)
    scores = expected.scores[position]
    lowest = min(scores.values())
    return scores.get(expected.tokens[position], lowest) - scores.get(found.tokens[position], lowest)


def histogram(margins: list[float]) -> dict[str, int]:
    """Return the number of margins in each bin."""
    counted = Counter(np.searchsorted(MARGIN_BINS, np.abs(margins)).tolist())
    names = ["0", *(f"to {largest}" for largest in MARGIN_BINS[1:]), f"above {MARGIN_BINS[-1]}"]
    return {name: counted[index] for index, name in enumerate(names)}


def report_of(check: Check) -> dict[str, Any]:
    """Return the report so far."""
    arguments = check.arguments
    return {
        "date": time.strftime("%Y-%m-%d"),
        "model": arguments.random_weights or arguments.model,
        "layers": check.model.config.get_text_config().num_hidden_layers,
        "random_weights": arguments.random_weights is not None,
        "dtype": arguments.dtype,
        "fused_step": not arguments.no_compiled_cpu,
        "prompts": len(check.prompts),
        "new_tokens": arguments.new_tokens,
        "threads": torch.get_num_threads(),
        "hardware": platform.processor() or platform.machine(),
        "versions": {
            "lookahead": lookahead.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "sampling": SAMPLING,
        "results": check.results,
    }


def main() -> None:
    """Run every combination, print and write the results; fail if reproducible answers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    parser.add_argument(
        "--model", default="embedded", help="the model; with --random-weights only its tokenizer is used"
    )
    parser.add_argument("--random-weights", metavar="SHAPE", help="qwen2.5-0.5b, …, or a config.json")
    parser.add_argument("--layers", type=int, help="number of layers, with --random-weights")
    parser.add_argument("--no-compiled-cpu", action="store_true", help="do steps by the model's own code")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the parts to run (default: all)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    check = Check(arguments)
    if "greedy" in arguments.parts:
        check.of_lookahead("greedy", GREEDY, reproducible=True)
    if "sampling" in arguments.parts:
        check.of_lookahead("sampling", SAMPLING, reproducible=True)
    is_kept = not any(result.get("differ") for result in check.results)
    if "without" in arguments.parts:
        check.of_lookahead("greedy", GREEDY, reproducible=False)
    if "generate" in arguments.parts:
        check.of_generate()
    check.save()
    if not is_kept:
        message = "reproducible=True: some answers differ"
        raise SystemExit(message)


if __name__ == "__main__":
    main()

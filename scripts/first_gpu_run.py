"""The first measurements on a GPU, in order of value; at most eight minutes.

    python scripts/first_gpu_run.py [--json gpu.json] [--minutes 8] [--sanitizer] [--tiny] [--only PART …]

Each part writes its results to the file as soon as it is done, and a table of all comes last. A part that
raises is recorded with its error, and the next one begins. The model has random weights, in the shape of
Llama-3-8B.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3MoeConfig

from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cuda.capture import CudaCapture
from lookahead.backends.cuda.packed_trees import columns_for, pack
from lookahead.backends.cuda.tree_attention import tree_attention
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.support.trial import trial_step_model

DEVICE = torch.device("cuda")
Results = dict[str, Any]


def seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Return the shortest time of some work, the device waited for."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def llama(*, is_tiny: bool) -> PreTrainedModel:
    """Return a model with random weights."""
    large = {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    }
    small = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    sizes = (
        {"hidden_size": 32, "intermediate_size": 64}
        if is_tiny
        else {"hidden_size": 4096, "intermediate_size": 14336}
    )
    config = LlamaConfig(**(small if is_tiny else large), **sizes, max_position_embeddings=8192)
    torch.manual_seed(0)
    with DEVICE:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


class FirstRun:
    """The parts of the run, in order.

    Args:
        is_tiny: Whether shapes are tiny, to try the script.
        in_thread: The context in which a thread uses the device.
    """

    def __init__(
        self, *, is_tiny: bool, in_thread: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self._is_tiny = is_tiny
        self._in_thread = in_thread
        self._model: PreTrainedModel | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model, made on first use."""
        if self._model is None:
            self._model = llama(is_tiny=self._is_tiny)
        return self._model

    def environment(self) -> Results:
        """Versions, the order of attention kernels, copy bandwidth, products of a few rows."""
        size = 256 if self._is_tiny else 4096
        source = torch.empty(size * size, dtype=torch.bfloat16, device=DEVICE)
        target, weight = (
            torch.empty_like(source),
            torch.empty(size, size, dtype=torch.bfloat16, device=DEVICE),
        )
        products = {}
        for rows in (1, 16, 64):
            inputs = torch.zeros(rows, size, dtype=torch.bfloat16, device=DEVICE)
            products[f"product_{rows}_us"] = 1e6 * seconds(lambda inputs=inputs: inputs @ weight)
        has_triton = importlib.util.find_spec("triton") is not None
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "triton": importlib.import_module("triton").__version__ if has_triton else None,
            "device": torch.cuda.get_device_name(),
            "capability": list(torch.cuda.get_device_capability()),
            "copy_gb_s": 4e-9 * source.numel() / seconds(lambda: target.copy_(source)),
            **products,
        }

    def tests(self) -> Results:
        """`tests/gpu`, each test in a process of its own: a failed one may leave its process in disorder."""
        if self._is_tiny:
            return {}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        listed = subprocess.run(
            [*command, "--collect-only", "tests/gpu"], capture_output=True, text=True, check=False
        )
        names = [line for line in listed.stdout.splitlines() if "::" in line]
        found = {}
        for name in names:
            ended = subprocess.run([*command, name], capture_output=True, text=True, check=False, timeout=120)
            found[name] = "passed" if ended.returncode == 0 else ended.stdout[-400:]
        return {
            "passed": sum(result == "passed" for result in found.values()),
            "of": len(found),
            "tests": found,
        }

    def steps(self) -> Results:
        """Milliseconds of a step of 1, 16 and 64 nodes, as the model's own code does it and captured."""
        found: Results = {}
        layout = attention_layout(self.model, fresh_cache(self.model))
        prompt = [index % 60 + 3 for index in range(32 if self._is_tiny else 1000)]
        for name, graphs in (("eager", None), ("captured", CapturedModels())):
            with (
                torch.no_grad(),
                closing(
                    trial_step_model(self.model, layout, prompt, max_nodes=64, graphs=graphs)
                ) as step_model,
            ):
                for nodes in (1, 16, 64):
                    tree, reserved = DraftTree.chain([5] * nodes), self._reserved_mb()

                    def step(tree: DraftTree = tree, step_model: Any = step_model) -> None:
                        step_model.forward({0: tree})
                        step_model.keep({0: []})

                    firsts = [seconds(step, 1) for _ in range(3)]  # eager, captured, replayed
                    found[f"{name}_{nodes}_first_ms"] = [1e3 * first for first in firsts]
                    found[f"{name}_{nodes}_ms"] = 1e3 * seconds(step)
                    found[f"{name}_{nodes}_mb"] = self._reserved_mb() - reserved
        return found

    def _reserved_mb(self) -> float:
        return 0.0 if self._is_tiny else torch.cuda.memory_reserved() / 1e6

    def generate(self) -> Results:
        """Tokens per second of `generate` and of Lookahead, cold and warm; whether texts are equal."""
        ids = torch.arange(3, 35, device=DEVICE).repeat(1 if self._is_tiny else 8)[None] % 60
        tokens = 16 if self._is_tiny else 128
        settings = {"max_new_tokens": tokens, "do_sample": False}
        lookahead, texts, found = Lookahead(LookaheadConfig()), [], {}
        runs = {"generate": self.model.generate, "cold": None, "warm": None}
        for name, run in runs.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            own = run or (lambda ids, **given: lookahead.generate(self.model, ids, **given))
            texts.append(own(ids, **settings).tolist())
            found[f"{name}_tokens_s"] = tokens / (time.perf_counter() - begin)
        stats = lookahead.last_stats.as_dict() if lookahead.last_stats else {}
        return {**found, "equal": texts[0] == texts[1] == texts[2], "stats": stats}

    def kernel(self) -> Results:
        """Microseconds of the tree attention kernels by context and nodes."""
        found: Results = {}
        heads, key_heads, width = (4, 2, 16) if self._is_tiny else (32, 8, 128)
        dtype = torch.float32 if self._is_tiny else torch.bfloat16  # the interpreter has no bfloat16
        for length in (64,) if self._is_tiny else (1000, 4000, 32_000):
            keys, values = (
                torch.randn(1, key_heads, length + 64, width, dtype=dtype, device=DEVICE) for _ in "kv"
            )
            for nodes in (1, 16, 64):
                host = torch.zeros(1, columns_for(nodes), dtype=torch.int64)
                zeros = torch.zeros(1, nodes, dtype=torch.int64)
                pack(host, zeros, zeros, [TreeRow(DraftTree.chain([1] * nodes), length)])
                query = torch.randn(1, heads, nodes, width, dtype=dtype, device=DEVICE)
                packed = host.to(DEVICE)

                def attend(
                    query: Any = query, keys: Any = keys, values: Any = values, packed: Any = packed
                ) -> None:
                    tree_attention(query, keys, values, packed, scaling=width**-0.5)

                attend()  # compiles
                found[f"{length}_slots_{nodes}_nodes_us"] = 1e6 * seconds(attend)
        return found

    def attention_plans(self) -> Results:
        """Milliseconds of the first masked attention of each of ten shapes, by torch's kernels."""
        found: Results = {}
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
            firsts = []
            for slots in range(1001, 1011):
                query = torch.randn(1, 8, 64, 128, dtype=torch.bfloat16, device=DEVICE)
                keys = torch.randn(1, 8, slots, 128, dtype=torch.bfloat16, device=DEVICE)
                mask = torch.zeros(1, 1, 64, slots, dtype=torch.bfloat16, device=DEVICE)

                def attend(query: Any = query, keys: Any = keys, mask: Any = mask) -> None:
                    scaled_dot_product_attention(query, keys, keys, attn_mask=mask)

                with sdpa_kernel([backend]):
                    firsts.append(1e3 * seconds(attend, 1))
            found[f"{backend.name.lower()}_ms"] = firsts
        return found

    def experts(self) -> Results:
        """Microseconds of a layer of experts, weights copied for each token or products of groups."""
        hidden = 32 if self._is_tiny else 2048
        config = Qwen3MoeConfig(
            hidden_size=hidden,
            moe_intermediate_size=16 if self._is_tiny else 768,
            num_experts=4 if self._is_tiny else 128,
            num_experts_per_tok=2 if self._is_tiny else 8,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=64,
        )
        with DEVICE:
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        layer, found = model.model.layers[0].mlp, dict[str, Any]()
        with torch.no_grad():
            for way in ("batched_mm", "grouped_mm"):
                model.set_experts_implementation(way)
                for tokens in (1, 4, 16, 64):
                    inputs = torch.zeros(1, tokens, hidden, dtype=torch.bfloat16, device=DEVICE)
                    found[f"{way}_{tokens}_us"] = 1e6 * seconds(lambda inputs=inputs: layer(inputs))
                try:
                    CudaCapture(DEVICE)(lambda inputs=inputs: layer(inputs))
                    found[f"{way}_is_captured"] = True
                except RuntimeError as problem:
                    found[f"{way}_is_captured"] = str(problem)[:200]
        return found

    def threads(self) -> Results:
        """What raises while two threads capture and a third one samples; nothing should."""
        weights, numbers = torch.ones(64, 64, device=DEVICE), torch.ones(1, 8, device=DEVICE)
        problems, counts, is_over = list[str](), {"captures": 0, "samples": 0}, threading.Event()

        def capture() -> None:
            CudaCapture(DEVICE)(lambda: weights @ weights)()
            counts["captures"] += 1

        def sample() -> None:
            torch.multinomial(numbers, 1)
            counts["samples"] += 1

        def repeat(work: Callable[[], None], times: int | None) -> None:
            with self._in_thread():
                try:
                    while not is_over.is_set() if times is None else times > 0:
                        work()
                        times = None if times is None else times - 1
                except RuntimeError as problem:
                    problems.append(f"{work.__name__}: {problem}"[:200])

        sampling = threading.Thread(target=repeat, args=(sample, None))
        capturing = [threading.Thread(target=repeat, args=(capture, 5)) for _ in range(2)]
        for thread in (sampling, *capturing):
            thread.start()
        for thread in capturing:
            thread.join()
        is_over.set()
        sampling.join()
        return {"problems": problems, **counts}

    def baselines(self) -> Results:
        """Tokens per second of `generate` as it is, and with a static cache and compiled steps."""
        ids = torch.arange(3, 35, device=DEVICE)[None]
        tokens, found = 16 if self._is_tiny else 128, dict[str, Any]()
        settings: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        for name, cache in (("eager", {}), ("static", {"cache_implementation": "static"})):
            if cache and self._is_tiny:
                continue
            self.model.generate(ids, **settings, **cache)  # compiles
            run = lambda cache=cache: self.model.generate(ids, **settings, **cache)  # noqa: E731
            found[f"{name}_tokens_s"] = tokens / seconds(run, 2)
        return found

    def cudnn(self) -> Results:
        """The order of torch's attention kernels, and the baselines where cuDNN's come last."""
        order = list(torch._C._get_sdp_priority_order())  # noqa: SLF001  # there is no public way
        found: Results = {"order": [SDPBackend(number).name for number in order]}
        if self._is_tiny:
            return found
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "found.json"
            command = [sys.executable, __file__, "--only", "baselines", "--json", str(path)]
            environment = {**os.environ, "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=180)
            return {**found, **json.loads(path.read_text(encoding="utf-8"))["baselines"]}

    def failed_capture(self) -> Results:
        """Whether torch samples and empties its cache after a capture that failed."""
        numbers = torch.ones(1, 8, device=DEVICE)
        try:
            CudaCapture(DEVICE)(lambda: numbers.sum().item())
        except RuntimeError as problem:
            refused = str(problem)[:100]
        torch.multinomial(numbers, 1)
        torch.cuda.empty_cache()
        return {"refused": refused}

    def sanitizer(self) -> Results:
        """`compute-sanitizer` over the kernels' test."""
        command = ["compute-sanitizer", "--tool", "memcheck", sys.executable, "-m", "pytest", "-q"]
        ended = subprocess.run(
            [*command, "tests/gpu/test_tree_kernel_on_cuda.py"], capture_output=True, text=True, check=False
        )
        return {"code": ended.returncode, "end": ended.stdout[-600:]}


def run(parts: dict[str, Callable[[], Results]], path: Path, minutes: float) -> Results:
    """Run parts until the time is up; write all results after each."""
    begin, results = time.monotonic(), dict[str, Any]()
    for name, part in parts.items():
        if time.monotonic() - begin > 60 * minutes:
            results[name] = {"left out": f"{minutes} minutes were up"}
            continue
        started = time.monotonic()
        try:
            found = part()
        except Exception as problem:  # noqa: BLE001  # the next part may still run
            found = {"error": f"{type(problem).__name__}: {problem}"[:500]}
        results[name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def table_of(results: Results) -> str:
    """Return the numbers as lines of part, name and value."""
    lines = [
        f"{part:16} {name:32} {value:.4g}" if isinstance(value, float) else f"{part:16} {name:32} {value}"
        for part, found in results.items()
        for name, value in found.items()
        if not isinstance(value, dict)
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all parts and print their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=Path("first_gpu_run.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--sanitizer", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="run these parts alone")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device")
        return 1
    first = FirstRun(is_tiny=arguments.tiny)
    parts = [first.environment, first.steps, first.generate, first.kernel, first.tests, first.attention_plans]
    parts += [first.failed_capture, first.threads, first.experts, first.baselines, first.cudnn]
    if arguments.sanitizer:
        parts.append(first.sanitizer)
    wanted = {part.__name__: part for part in parts if not arguments.only or part.__name__ in arguments.only}
    print(table_of(run(wanted, arguments.json, arguments.minutes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure steps of a model's own code: rows in a rectangle, and rows one after the other.

    python scripts/ragged_steps.py --dtype float32 --json benchmarks/ragged-steps.json

Each step verifies a tree of each of eight rows, after texts of some length. The two ways take turns; the
report has the median of their CPU seconds (of all threads) and what `FlatRows.saved_tokens` says.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lookahead
from lookahead.drafting.tree import DraftTree
from lookahead.files import write_json
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.models.loading import load_model
from lookahead.hf.steps.eager import EagerRunner, FlatRunner, flat_rows_of
from lookahead.hf.steps.runner import Row, StepBatch
from lookahead.hf.steps.verification import TREE

LENGTHS = {"60 each": [60] * 8, "1000 each": [1000] * 8, "one of 2000, others 50": [2000, *[50] * 7]}
NODES = {
    "no draft": [1] * 8,
    "one of 2": [2, *[1] * 7],
    "one of 16": [16, *[1] * 7],
    "every other of 8": [8, 1] * 4,
    "3 and 2 in turn": [3, 2] * 4,
    "16 to 1": [16, 8, 4, 2, 1, 16, 8, 4],
}
_CHUNK = 512


class Steps:
    """Rows that hold texts, and both ways to verify trees after them."""

    def __init__(self, model: Any, lengths: Sequence[int]) -> None:
        layout = attention_layout(model, fresh_cache(model))
        self.cache = ArenaCache(layout.kept, max(lengths) + 32, layout.borrowing, max_rows=len(lengths))
        self.eager = EagerRunner(model, ModelTraits.of(model), layout, TREE)
        self.flat = FlatRunner(self.eager)
        self.rows = [self._read(length) for length in lengths]

    def _read(self, length: int) -> Row:
        arena = self.cache.arena
        row, tokens = Row(arena.add_row()), [int(token) for token in np.arange(length) * 31 % 4000 + 10]
        arena.set_active_rows([row.slot])
        for begin in range(0, length, _CHUNK):
            part = tokens[begin : begin + _CHUNK]
            self.eager.read(StepBatch([row], [DraftTree.chain(part)], self.cache), [1])
            arena.keep({row.slot: range(len(part))})
            row.position += len(part)
        return row

    def batch(self, nodes: Sequence[int]) -> StepBatch:
        """Return a step whose rows have so many nodes."""
        self.cache.arena.set_active_rows([row.slot for row in self.rows])
        return StepBatch(self.rows, [tree(count) for count in nodes], self.cache)

    def in_rectangle(self, nodes: Sequence[int]) -> list[Tensor]:
        """Return the logits of each row, computed as wide as the largest tree."""
        batch = self.batch(nodes)
        logits = self.eager.forward(batch, batch.width)
        return [of_row[:count] for of_row, count in zip(logits, nodes, strict=True)]

    def one_after_the_other(self, nodes: Sequence[int]) -> list[Tensor]:
        """Return the logits of each row, computed one row after the other."""
        batch = self.batch(nodes)
        logits = self.flat.forward(batch, flat_rows_of(batch), nodes)
        assert logits is not None  # noqa: S101  # the cache has layers
        return logits


def tree(nodes: int) -> DraftTree:
    """Return a tree in which most nodes have two children."""
    parents = [-1, *(max(0, node - 2) for node in range(1, nodes))]
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    tokens = np.arange(5, 5 + nodes, dtype=np.int32)
    return DraftTree(tokens, np.array(parents, np.int32), np.array(depths, np.int32), np.ones(nodes))


@torch.no_grad()
def measured(steps: Steps, nodes: Sequence[int], turns: int) -> dict[str, Any]:
    """Return the median CPU milliseconds of both ways, and how far their logits differ."""
    ways = {"rectangle": steps.in_rectangle, "one_after_the_other": steps.one_after_the_other}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way(nodes)
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - begin)
    pairs = zip(*(way(nodes) for way in ways.values()), strict=True)
    batch = steps.batch(nodes)
    saved = flat_rows_of(batch).saved_tokens(steps.flat.slots_per_token(batch))
    return {
        **{f"{name}_ms": round(1e3 * statistics.median(taken), 1) for name, taken in seconds.items()},
        "tokens": {"rectangle": len(nodes) * max(nodes), "one_after_the_other": sum(nodes)},
        "saved_tokens": round(saved, 1),
        "largest_difference": max(float((first - second).abs().max()) for first, second in pairs),
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=None, help="a folder or GGUF file; the embedded model if left out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, _ = load_model(given.model, dtype=given.dtype)
    report: dict[str, Any] = {
        "lookahead": lookahead.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "dtype": given.dtype,
        "threads": given.threads,
        "steps": {},
    }
    for of_lengths, lengths in LENGTHS.items():
        with torch.no_grad():
            steps = Steps(model, lengths)
        report["steps"][of_lengths] = {
            of_nodes: measured(steps, nodes, given.turns) for of_nodes, nodes in NODES.items()
        }
    print(json.dumps(report, indent=1))
    if given.json:
        write_json(given.json, report)


if __name__ == "__main__":
    main()

"""Fit the initial calibration of a TokenLog on recorded answers.

    python research/fit_beliefs.py TRACES.jsonl.gz

The fit is done on the requests at even positions, on those at odd positions and on all. The numbers in
`initial_log_trust` and `initial_weights` are the last fit, rounded. The fit of each half is judged on the
other half, next to the numbers in use, which were fitted on both.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookahead.bench.data.traces import Trace, read_traces
from lookahead.bench.replay.calibration import Calibration
from lookahead.bench.replay.drafters import StoreDrafter
from lookahead.bench.replay.replay import ReplayResult, Tally, replay
from lookahead.config import LookaheadConfig
from lookahead.drafting.arrays import Float64Array, Int32Array
from lookahead.drafting.log.calibration import (
    AGES,
    BIASES,
    NO_SUCCESSORS,
    NONE_SLOPE,
    RANKS,
    SLOPES,
    SOURCES,
    SQUARES_AT_FIRST,
    VALUE,
    initial_weights,
)
from lookahead.drafting.log.matches import (
    CROWDS,
    LENGTHS,
    TRIALS_AT_FIRST,
    VARIETIES,
    initial_log_trust,
)
from lookahead.drafting.log.token_log import TokenLog

Beliefs = tuple[Float64Array, Float64Array]
Said = tuple[Int32Array, Float64Array, float, int]  # features, evidence, that of none, which came (-1: none)

MEMORY_BYTES = 2**26
FEW_REQUESTS = 20
"""The fit is for a memory that is nearly empty, so it starts empty again after so many requests."""
STARTS = (1, 5, 20)


class NotingDrafter(StoreDrafter):
    """A log with given beliefs. It records its predictions before each token, and the token."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.log = TokenLog(max_bytes=MEMORY_BYTES)
        self.log._trust[:], self.log._weights[:] = beliefs  # noqa: SLF001
        self.said: list[Said] = []
        super().__init__(self.log, LookaheadConfig())

    def learn(self, token_ids: Int32Array) -> None:
        """Record the predictions along the accepted path, as the log itself will learn from them."""
        (request,) = self.log._requests.values()  # noqa: SLF001
        sketch, node = request.memory.sketch, 0
        for token in token_ids:
            if node >= sketch.size[0]:
                break
            begin, end = sketch.said.nodes[node, :2]
            if end > begin:
                hit = np.flatnonzero(sketch.said.tokens[begin:end] == token)
                features = sketch.said.features[begin:end].copy()
                evidence = sketch.said.evidence[begin:end].copy()
                came = int(hit[0]) if len(hit) else -1
                self.said.append((features, evidence, sketch.said.rests[node], came))
            below = slice(node + 1, sketch.size[0])
            is_next = (sketch.tree.parents[below] == node) & (sketch.tree.token_ids[below] == token)
            node = node + 1 + int(np.argmax(is_next)) if is_next.any() else int(sketch.size[0])
        super().learn(token_ids)


def replayed_anew(
    traces: Sequence[Trace], beliefs: Beliefs, *, draft_tokens: int, recycling: bool = True
) -> tuple[list[Said], Float64Array]:
    """Replay with a memory emptied every few requests; return the predictions, and trials and hits."""
    said: list[Said] = []
    counts: Float64Array = np.zeros_like(beliefs[0])
    for begin in range(0, len(traces), FEW_REQUESTS):
        drafter = NotingDrafter(beliefs)
        replay(drafter, traces[begin : begin + FEW_REQUESTS], draft_tokens=draft_tokens, recycling=recycling)
        said += drafter.said
        trust = np.asarray(drafter.log.snapshot()["trust"], np.float64)
        counts += trust - beliefs[0]
    return said, counts


def minimised(loss: Callable[[torch.Tensor], torch.Tensor], size: int) -> torch.Tensor:
    """Return the parameters that minimise a convex loss."""
    parameters = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimiser: Any = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value: Any = loss(parameters) + 1e-5 * (parameters**2).sum()
        value.backward()
        return torch.as_tensor(value)

    optimiser.step(closure)
    return parameters.detach()


def fit_trust(counts: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the factors of the odds (own, shared, per crowd, per variety), and the trust they give."""
    source, length, variety, crowd = np.indices((2, LENGTHS, VARIETIES, CROWDS)).reshape(4, -1)
    design = torch.tensor(np.stack([source == 0, source == 1, crowd, variety], axis=1).astype(np.float64))
    offset = torch.tensor(np.log(np.maximum(length, 1)))
    trials, hits = torch.tensor(counts).unbind(dim=1)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        logits = offset + design @ parameters
        return (trials * torch.nn.functional.softplus(logits) - hits * logits).sum() / trials.sum()

    parameters = minimised(loss, 4)
    chance = torch.sigmoid(offset + design @ parameters).numpy()
    return parameters.exp().numpy(), TRIALS_AT_FIRST * np.stack([np.ones(len(chance)), chance], axis=1)


def weight_design() -> torch.Tensor:
    """Return the design matrix of the weights: float64 [weights, parameters], in the printed order."""
    source, rank, age = np.indices((SOURCES, RANKS, AGES)).reshape(3, -1)
    by_rank = np.where(rank == NO_SUCCESSORS, 0.0, np.log(rank + 1.0))
    features = [
        *(source == which for which in range(SOURCES)),
        *((source == which) * by_rank for which in range(SOURCES)),
        (source == 0) * age,
        (source > 0) * age,
        rank == NO_SUCCESSORS,
    ]
    design = np.zeros((BIASES + len(source), 2 + len(features)))
    design[[SLOPES + 1, SLOPES + 2], [0, 1]] = 1.0
    design[BIASES:, 2:] = np.stack(features, axis=1)
    return torch.tensor(design)


def fit_weights(said: list[Said]) -> tuple[Float64Array, Float64Array]:
    """Return the parameters of the softmax, and the weights they give."""
    widest = max(len(features) for features, _, _, _ in said)
    features = torch.zeros((len(said), widest), dtype=torch.int64)
    evidence = torch.full((len(said), widest), -torch.inf, dtype=torch.float64)
    for row, (its_features, its_evidence, _, _) in enumerate(said):
        features[row, : len(its_features)] = torch.tensor(its_features)
        evidence[row, : len(its_features)] = torch.tensor(its_evidence)
    none = torch.tensor([rest for _, _, rest, _ in said], dtype=torch.float64)[:, None]
    came = torch.tensor([hit if hit >= 0 else widest for _, _, _, hit in said])
    is_none, sources = torch.isinf(evidence), features // (RANKS * AGES)
    evidence[is_none] = 0.0
    base = torch.zeros(initial_weights().shape[1], dtype=torch.float64)
    base[NONE_SLOPE] = base[SLOPES] = 1.0  # these two slopes are fixed at 1
    design = weight_design()

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        weights = base + design @ parameters
        scores = weights[SLOPES + sources] * evidence + weights[BIASES + features]
        scores = scores.masked_fill(is_none, -1e9)
        return torch.nn.functional.cross_entropy(torch.cat([scores, none], dim=1), came)

    parameters = minimised(loss, design.shape[1])
    weights = np.full((2, len(base)), SQUARES_AT_FIRST)
    weights[VALUE] = (base + design @ parameters).numpy()
    return parameters.numpy(), weights


def fitted(traces: Sequence[Trace]) -> Beliefs:
    """Return beliefs fitted on traces, and print their parameters."""
    mixed = [traces[i] for i in np.random.default_rng(0).permutation(len(traces))]
    beliefs = initial_log_trust(), initial_weights()
    _, counts = replayed_anew(mixed, beliefs, draft_tokens=64)
    factors, trust = fit_trust(counts)
    print(f"odds of trust: {np.round(factors, 2)}")
    said: list[Said] = []
    for draft_tokens, recycling in ((16, True), (64, True), (64, False)):
        seen, _ = replayed_anew(mixed, (trust, beliefs[1]), draft_tokens=draft_tokens, recycling=recycling)
        said += seen if recycling else seen[::4]
    parameters, weights = fit_weights(said)
    print(f"weights: {np.round(parameters, 2)}")
    return trust, weights


def judge(name: str, judged: Sequence[tuple[Beliefs, Sequence[Trace]]], draft_tokens: int) -> None:
    """Print the results of beliefs in whole replays, and in the first requests of an empty memory."""
    results = [replay(NotingDrafter(b), traces, draft_tokens=draft_tokens) for b, traces in judged]
    line = f"{name} at {draft_tokens}: {summary(results)}"
    for most in STARTS:
        firsts = [
            replay(NotingDrafter(b), (traces[i:] + traces[:i])[:most], draft_tokens=draft_tokens)
            for b, traces in ((b, list(traces)) for b, traces in judged)
            for i in range(0, len(traces), max(1, most // 5))
        ]
        line += f"; first {most}: {summary(firsts)}"
    print(line)


def summary(results: Sequence[ReplayResult]) -> str:
    """Return the mean acceptance length and the calibration error over several replays."""
    tally, together = Tally(), Calibration()
    for result in results:
        assert result.calibration is not None  # noqa: S101  # a log's drafts are calibrated
        tally.tokens += result.overall.tokens
        tally.steps += result.overall.steps
        together.predicted += result.calibration.predicted
        together.came += result.calibration.came
        together.count += result.calibration.count
    judged = together.summary() or {}
    return f"{tally.mean_acceptance_length:.3f} {judged['expected_calibration_error']:.2%}"


def main() -> None:
    """Fit, and judge the fit of each half on the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", type=Path)
    traces = read_traces(parser.parse_args().traces)
    halves = traces[0::2], traces[1::2]
    crosswise = [(fitted(halves[1]), halves[0]), (fitted(halves[0]), halves[1])]
    fitted(traces)
    in_use = [((initial_log_trust(), initial_weights()), half) for half in halves]
    for draft_tokens in (16, 64):
        judge("in use", in_use, draft_tokens)
        judge("fitted on the other half", crosswise, draft_tokens)


if __name__ == "__main__":
    main()

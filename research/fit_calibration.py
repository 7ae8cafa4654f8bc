"""Fit a TokenLog's initial state on recorded answers.

    python research/fit_calibration.py TRACES.jsonl.gz

Fits on the even requests, on the odd ones and on all: `initial_hit_rates` and `initial_weights` have the
numbers of the last fit, rounded. Each half's fit is judged on the other half, beside the one in use.
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
from lookahead.drafting.growth.candidates import GUESSED
from lookahead.drafting.log.calibration import (
    AGES,
    BIASES,
    COLUMNS,
    HINT_BIASES,
    INITIAL_SQUARES,
    NO_SUCCESSORS,
    NONE_SLOPE,
    RANKS,
    SLOPES,
    SOURCES,
    VALUE,
    CalibrationState,
    initial_weights,
)
from lookahead.drafting.log.matches import (
    CROWDS,
    INITIAL_TRIALS,
    LENGTHS,
    VARIETIES,
    initial_hit_rates,
)
from lookahead.drafting.log.token_log import TokenLog

State = tuple[Float64Array, Float64Array]
"""Hit rates and weights."""
Prediction = tuple[Int32Array, Float64Array, float, int]
"""Features, evidence, evidence of none, and the index of the candidate that came (-1: none)."""

MEMORY_BYTES = 2**26
FEW_REQUESTS = 20
"""The state is fitted for a nearly empty memory: begin with an empty one after this many requests."""
STARTS = (1, 5, 20)


class RecordingDrafter(StoreDrafter):
    """A log with a given state, which records the prediction for each token that came, and the token."""

    def __init__(self, state: State) -> None:
        self.log = TokenLog(max_bytes=MEMORY_BYTES)
        self.log._calibrations.initial = CalibrationState(*state)  # noqa: SLF001
        self.predictions: list[Prediction] = []
        super().__init__(self.log, LookaheadConfig())

    def learn(self, token_ids: Int32Array) -> None:
        """Record the predictions along the accepted path, as the log itself learns from them."""
        (request,) = self.log._requests.values()  # noqa: SLF001
        tree, predictions = request.draft.workspace.tree, request.draft.workspace.predictions
        node, size = 0, int(request.draft.workspace.size[0])
        for token in token_ids:
            if node >= size:
                break
            begin, end = predictions.nodes[node, :2]
            if end > begin:
                hit = np.flatnonzero(predictions.tokens[begin:end] == token)
                came = int(hit[0]) if len(hit) else -1
                features = predictions.features[begin:end].copy()
                evidence = predictions.evidence[begin:end].copy()
                self.predictions.append((features, evidence, predictions.none_evidence[node], came))
            below = slice(node + 1, size)
            is_next = (tree.parents[below] == node) & (tree.token_ids[below] == token)
            node = node + 1 + int(np.argmax(is_next)) if is_next.any() else size
        super().learn(token_ids)


def replayed_anew(
    traces: Sequence[Trace], state: State, *, draft_tokens: int, recycling: bool = True
) -> tuple[list[Prediction], Float64Array]:
    """Replay with a new memory every few requests; return the predictions, and trials and hits."""
    predictions: list[Prediction] = []
    counts: Float64Array = np.zeros_like(state[0])
    for begin in range(0, len(traces), FEW_REQUESTS):
        drafter = RecordingDrafter(state)
        replay(drafter, traces[begin : begin + FEW_REQUESTS], draft_tokens=draft_tokens, recycling=recycling)
        predictions += drafter.predictions
        counts += np.asarray(drafter.log.snapshot()["hit_rates"], np.float64) - state[0]
    return predictions, counts


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


def fit_hit_rates(counts: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the factors of the odds (own, shared, per crowd, per variety), and the hit rates they make."""
    source, length, variety, crowd = np.indices((2, LENGTHS, VARIETIES, CROWDS)).reshape(4, -1)
    design = torch.tensor(np.stack([source == 0, source == 1, crowd, variety], axis=1).astype(np.float64))
    offset = torch.tensor(np.log(np.maximum(length, 1)))
    trials, hits = torch.tensor(counts).unbind(dim=1)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        logits = offset + design @ parameters
        return (trials * torch.nn.functional.softplus(logits) - hits * logits).sum() / trials.sum()

    parameters = minimised(loss, 4)
    probability = torch.sigmoid(offset + design @ parameters).numpy()
    return parameters.exp().numpy(), INITIAL_TRIALS * np.stack(
        [np.ones(len(probability)), probability], axis=1
    )


def weight_design() -> torch.Tensor:
    """Return the design matrix of the weights: float64 [weights, parameters], parameters as printed."""
    source, rank, age = np.indices((SOURCES, RANKS, AGES)).reshape(3, -1)
    by_rank = np.where(rank == NO_SUCCESSORS, 0.0, np.log(rank + 1.0))
    features = [
        *(source == which for which in range(SOURCES)),
        *((source == which) * by_rank for which in range(SOURCES)),
        (source == 0) * age,
        (source > 0) * age,
        rank == NO_SUCCESSORS,
    ]
    design = np.zeros((COLUMNS, 2 + len(features)))
    design[[SLOPES + 1, SLOPES + 2], [0, 1]] = 1.0
    design[BIASES:HINT_BIASES, 2:] = np.stack(features, axis=1)
    return torch.tensor(design)


def fit_weights(predictions: list[Prediction]) -> tuple[Float64Array, Float64Array]:
    """Return the parameters of the softmax, and the weights they make."""
    widest = max(len(features) for features, _, _, _ in predictions)
    features = torch.zeros((len(predictions), widest), dtype=torch.int64)
    evidence = torch.full((len(predictions), widest), -torch.inf, dtype=torch.float64)
    for row, (its_features, its_evidence, _, _) in enumerate(predictions):
        features[row, : len(its_features)] = torch.tensor(its_features)
        evidence[row, : len(its_features)] = torch.tensor(its_evidence)
    none = torch.tensor([rest for _, _, rest, _ in predictions], dtype=torch.float64)[:, None]
    came = torch.tensor([hit if hit >= 0 else widest for _, _, _, hit in predictions])
    is_none, sources = torch.isinf(evidence), features // (RANKS * AGES)
    evidence[is_none] = 0.0
    base = torch.zeros(initial_weights().shape[1], dtype=torch.float64)
    base[NONE_SLOPE] = base[SLOPES] = 1.0  # these slopes are fixed
    base[SLOPES + GUESSED : BIASES] = torch.from_numpy(initial_weights()[VALUE, SLOPES + GUESSED : BIASES])
    design = weight_design()

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        weights = base + design @ parameters
        scores = weights[SLOPES + sources] * evidence + weights[BIASES + features]
        scores = scores.masked_fill(is_none, -1e9)
        return torch.nn.functional.cross_entropy(torch.cat([scores, none], dim=1), came)

    parameters = minimised(loss, design.shape[1])
    weights = np.full((2, len(base)), INITIAL_SQUARES)
    weights[VALUE] = (base + design @ parameters).numpy()
    return parameters.numpy(), weights


def fitted(traces: Sequence[Trace]) -> State:
    """Return the state fitted on traces, and print its parameters."""
    mixed = [traces[i] for i in np.random.default_rng(0).permutation(len(traces))]
    state = initial_hit_rates(), initial_weights()
    _, counts = replayed_anew(mixed, state, draft_tokens=64)
    factors, hit_rates = fit_hit_rates(counts)
    print(f"factors of the odds: {np.round(factors, 2)}")
    predictions: list[Prediction] = []
    for draft_tokens, recycling in ((16, True), (64, True), (64, False)):
        seen, _ = replayed_anew(mixed, (hit_rates, state[1]), draft_tokens=draft_tokens, recycling=recycling)
        predictions += seen if recycling else seen[::4]
    parameters, weights = fit_weights(predictions)
    print(f"weights: {np.round(parameters, 2)}")
    return hit_rates, weights


def judge(name: str, judged: Sequence[tuple[State, Sequence[Trace]]], draft_tokens: int) -> None:
    """Print the results of whole replays, and of the first requests of a memory that begins at each."""
    results = [replay(RecordingDrafter(b), traces, draft_tokens=draft_tokens) for b, traces in judged]
    line = f"{name} at {draft_tokens}: {summary(results)}"
    for count in STARTS:
        firsts = [
            replay(RecordingDrafter(b), (traces[i:] + traces[:i])[:count], draft_tokens=draft_tokens)
            for b, traces in ((b, list(traces)) for b, traces in judged)
            for i in range(0, len(traces), max(1, count // 5))
        ]
        line += f"; first {count}: {summary(firsts)}"
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
    in_use = [((initial_hit_rates(), initial_weights()), half) for half in halves]
    for draft_tokens in (16, 64):
        judge("in use", in_use, draft_tokens)
        judge("fitted on the other half", crosswise, draft_tokens)


if __name__ == "__main__":
    main()

"""The paper's experiments by replay: acceptance within a minute, without a model and without noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lookahead.bench.data.traces import Trace
from lookahead.bench.replay.drafters import StoreDrafter
from lookahead.bench.replay.replay import ReplayedDrafter, ReplayResult, replay
from lookahead.bench.replay.results import summarise_replay
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import DraftStore
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError
from research.ablations import ABLATIONS, WithoutEarlierAnswers

WINDOW = 40
"""Requests in the moving mean of a warm-up curve."""

_DRAFT_TOKENS = 16
_LENGTHS = (4, 8, 16, 32, 64)
_DEPTHS = (2, 4, 8, 16, 32)
_CAPACITIES = tuple(2**power for power in (16, 17, 18, 19, 20, 21, 22, 23))
_PRUNED_NODES = 20_000


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One replay of an experiment.

    Attributes:
        name: Its name.
        make: Makes its drafter, with an empty memory.
        draft_tokens: Maximum number of draft tokens, without the current one.
        labels: What tables and pictures sort by: a capacity, a branch length, a store.
        recycling: Whether recorded successors are recycled.
    """

    name: str
    make: Callable[[], ReplayedDrafter]
    draft_tokens: int = _DRAFT_TOKENS
    labels: dict[str, Any] = field(default_factory=dict)
    recycling: bool = True


@dataclass(frozen=True, kw_only=True)
class ReplayExperiment:
    """What to replay to answer a question.

    Attributes:
        name: Its name in options.
        question: The question.
        variants: The replays to compare.
        shuffles: Whether traces come in random order, so that growth is no effect of the categories' order.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    shuffles: bool = False


_STORES: dict[str, Callable[..., DraftStore]] = {"log": TokenLog, "trie": TokenTrie}


def _drafter(make_store: Callable[[], DraftStore], **settings: Any) -> ReplayedDrafter:
    return StoreDrafter(make_store(), LookaheadConfig(**settings))


def _grid() -> tuple[Variant, ...]:
    return tuple(
        Variant(
            name=f"{length} by {depth}",
            make=partial(_drafter, TokenLog, branch_length=depth),
            draft_tokens=length - 1,
            labels={"decoding_length": length, "branch_length": depth},
        )
        for length in _LENGTHS
        for depth in _DEPTHS
    )


def _capacity() -> tuple[Variant, ...]:
    return tuple(
        Variant(
            name=f"{store}, {size // 2**10} KiB",
            make=partial(_drafter, partial(make, max_bytes=size)),
            labels={"store": store, "memory_bytes": size},
        )
        for store, make in _STORES.items()
        for size in _CAPACITIES
        if store == "log" or size >= 2**19  # a trie's smallest size: its learned tables and nodes
    )


def _ablation() -> tuple[Variant, ...]:
    variants = []
    for store, make in _STORES.items():
        variants.append(Variant(name=store, make=partial(_drafter, make), labels={"store": store}))
        variants += [
            Variant(
                name=f"{store} {taken_out.replace('-', ' ')}",
                make=partial(_drafter, partial(ablate, make)),
                labels={"store": store},
            )
            for taken_out, ablate in ABLATIONS.items()
        ]
        variants += [
            Variant(
                name=f"{store}, {mode.value}",
                make=partial(_drafter, make, draft_mode=mode),
                labels={"store": store},
            )
            for mode in (DraftMode.PARALLEL, DraftMode.SINGLE)
        ]
    without_recycling = Variant(
        name="log without recycling",
        make=partial(_drafter, TokenLog),
        labels={"store": "log"},
        recycling=False,
    )
    pruned = Variant(
        name=f"trie pruned to {_PRUNED_NODES:,} nodes",
        make=partial(_drafter, partial(TokenTrie, max_nodes=_PRUNED_NODES)),
        labels={"store": "trie"},
    )
    return tuple(sorted([*variants, without_recycling, pruned], key=lambda variant: variant.labels["store"]))


def _warm_up() -> tuple[Variant, ...]:
    fresh = partial(WithoutEarlierAnswers, TokenLog)
    return (
        Variant(name="memory grows", make=partial(_drafter, TokenLog)),
        Variant(name="memory emptied", make=partial(_drafter, fresh)),
    )


_MAKERS: dict[str, tuple[str, Callable[[], tuple[Variant, ...]], bool]] = {
    "grid": ("How much to draft, and how deep?", _grid, False),
    "capacity": ("How large a memory does it take?", _capacity, False),
    "ablation": ("What does each idea give?", _ablation, False),
    "warm-up": ("How many requests until the memory pays?", _warm_up, True),
}
REPLAY_EXPERIMENTS = tuple(_MAKERS)


def make_experiment(name: str) -> ReplayExperiment:
    """Return the experiment of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in _MAKERS:
        message = f"--experiment {name!r} is unknown; choose from {', '.join(REPLAY_EXPERIMENTS)}"
        raise ConfigError(message)
    question, variants, shuffles = _MAKERS[name]
    return ReplayExperiment(name=name, question=question, variants=variants(), shuffles=shuffles)


def run_experiment(
    experiment: ReplayExperiment,
    traces: Sequence[Trace],
    *,
    seed: int = 0,
    on_variant: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Replay every variant; return a row of `summarise_replay` for each, with its labels and its curve.

    Args:
        experiment: What to replay.
        traces: Recorded answers.
        seed: Seed of the order of traces, if they are shuffled.
        on_variant: Called with each variant's name before its replay.
    """
    order = (
        np.random.default_rng(seed).permutation(len(traces)) if experiment.shuffles else range(len(traces))
    )
    ordered = [traces[index] for index in order]
    rows = []
    for variant in experiment.variants:
        on_variant(variant.name)
        result = replay(
            variant.make(), ordered, draft_tokens=variant.draft_tokens, recycling=variant.recycling
        )
        row = summarise_replay(variant.name, variant.draft_tokens, result)
        rows.append({**row, "labels": variant.labels, "by_requests": _curve(result)})
    return rows


def _curve(result: ReplayResult) -> list[list[float]]:
    """Return points [requests seen, mean acceptance length of the WINDOW before]."""
    size = min(WINDOW, len(result.by_trace))
    points = []
    for end in range(size, len(result.by_trace) + 1, max(1, size // 4)):
        window = result.by_trace[end - size : end]
        steps = sum(tally.steps for tally in window)
        if steps:
            points.append([float(end), round(sum(tally.tokens for tally in window) / steps, 4)])
    return points

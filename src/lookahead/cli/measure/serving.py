"""`lookahead bench --experiment serving`: requests that arrive over time, served in several ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.bench.serving.arrivals import Arrivals, arrival_times
from lookahead.cli import options
from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from lookahead.bench.run.cases import Case
    from lookahead.bench.serving.methods import Served
    from lookahead.bench.serving.rounds import ServingPlan


class Experiment(StrEnum):
    """What is measured."""

    MAIN = "main"
    """Each prompt by every method, one after the other."""
    SERVING = "serving"
    """All prompts by every method, as requests to a server."""


Which = Annotated[
    Experiment,
    typer.Option("--experiment", help="main: prompt by prompt; serving: prompts as requests to a server."),
]
ArrivalsOption = Annotated[
    Arrivals,
    typer.Option(help="serving: requests arrive all at once, at random moments, or in bursts of 4."),
]
Rate = Annotated[float, typer.Option(help="serving: requests per second; not used if all arrive at once.")]
Rows = Annotated[str, typer.Option(help="serving: how many requests are served at once, each of these.")]
Pairs = Annotated[int, typer.Option(min=1, help="serving: rounds, each with every method.")]
PrefixCache = Annotated[
    bool,
    typer.Option(
        "--prefix-cache/--no-prefix-cache",
        help="serving: keep what prompts begin with; each round begins without any.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """The options of the experiment.

    Attributes:
        arrivals: How requests arrive.
        rate: Requests per second.
        rows: How many requests are served at once, each of these.
        pairs: Number of rounds.
        prefix_cache: Whether engines keep what prompts begin with.
    """

    arrivals: Arrivals
    rate: float
    rows: Sequence[int]
    pairs: int
    prefix_cache: bool

    @classmethod
    def of(
        cls, arrivals: Arrivals, rate: float, rows: str, pairs: int, *, prefix_cache: bool
    ) -> "ServingOptions":
        """Return checked options.

        Raises:
            ConfigError: One of them is not allowed.
        """
        arrival_times(arrivals, 1, rate, 0)
        counts = options.integers_in("--rows", rows)
        return cls(arrivals=arrivals, rate=rate, rows=counts, pairs=pairs, prefix_cache=prefix_cache)

    def plan(
        self,
        cases: "Sequence[Case]",
        served: "Served",
        methods: Sequence[str],
        *,
        noise: bool,
        tokens: int,
        seed: int,
    ) -> "ServingPlan":
        """Return what to measure.

        Raises:
            ConfigError: A method is unknown.
        """
        from lookahead.bench.serving.registry import make_serving_methods
        from lookahead.bench.serving.rounds import ServingPlan

        return ServingPlan(
            cases=cases,
            methods=make_serving_methods(methods, self.rows, served, noise=noise),
            arrivals=self.arrivals,
            rate=self.rate,
            rounds=self.pairs,
            max_new_tokens=tokens,
            seed=seed,
        )

    def described(self, plan: "ServingPlan", served: "Served") -> dict[str, Any]:
        """Return the plan as settings of a report."""
        return {
            "experiment": Experiment.SERVING.value,
            "methods": [method.name for method in plan.methods],
            "max_new_tokens": plan.max_new_tokens,
            "arrivals": self.arrivals.value,
            "rate": self.rate,
            "rows_at_once": list(self.rows),
            "pairs": self.pairs,
            "prefix_cache": self.prefix_cache,
            "decoding_length": served.config.decoding_length,
            "branch_length": served.config.branch_length,
            "fused_step": served.config.compiled_cpu,
            "mode": served.config.draft_mode.value,
            "seed": plan.seed,
        }


def refuse_unused(temperature: float, warm: Path | None) -> None:
    """Refuse options of the main experiment that would change what is measured.

    Raises:
        ConfigError: One of them is given.
    """
    for option, is_given in (("--temperature", temperature != 0), ("--warm", warm is not None)):
        if is_given:
            message = f"{option} has no meaning with --experiment serving; leave it out"
            raise ConfigError(message)

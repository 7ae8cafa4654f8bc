"""The results of a benchmark, prompt by prompt, and their form as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lookahead.bench.run.differences import Difference, Verdict
from lookahead.bench.run.measuring import Run

RowId = str | int


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """One prompt (or one batch of them), answered by every method.

    Attributes:
        row_id: Id of the row; the joined ids of a batch.
        category: Category of the row.
        prompt_tokens: Tokens of the prompt with its chat template; of all prompts of a batch.
        runs: Runs by method name.
        differences: First differences from the baseline's answer by method name; only of methods that differ.
    """

    row_id: RowId
    category: str
    prompt_tokens: int
    runs: dict[str, Run]
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A prompt that a method could not answer. It is left out for all methods.

    Attributes:
        row_id: Id of the row.
        method: Name of the method that failed.
        error: The exception as text.
    """

    row_id: RowId
    method: str
    error: str


@dataclass(frozen=True)
class Skipped:
    """A prompt that is too long for the model's context with the tokens to generate."""

    row_id: RowId


Outcome = PromptResult | Failure | Skipped


@dataclass
class BenchmarkResult:
    """Everything measured, complete or up to an interruption.

    Attributes:
        results: One per prompt, in the order of the rows.
        skipped: Ids of the rows that are too long for the model's context with the tokens to generate.
        failed: Prompts that a method could not answer.
        trials: How a method's variant was chosen, by method name: `chosen`, `seconds` by variant, `prompts`.
        interrupted: Whether the user stopped the run.
        resumed_prompts: Number of prompts from an earlier, interrupted run.
        warmed: Whether memories were warmed before the first row.
        memory_source: How peak memory was measured; None if it was not.
    """

    results: list[PromptResult] = field(default_factory=list)
    skipped: list[RowId] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: bool = False
    resumed_prompts: int = 0
    warmed: bool = False
    memory_source: str | None = None

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a prompt."""
        if isinstance(outcome, PromptResult):
            self.results.append(outcome)
        elif isinstance(outcome, Failure):
            self.failed.append(outcome)
        else:
            self.skipped.append(outcome.row_id)


def outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON-serialisable values, without loss."""
    return {"outcome": type(outcome).__name__, **asdict(outcome)}


def outcome_from_dict(entry: dict[str, Any]) -> Outcome:
    """Return the outcome from the result of `outcome_as_dict`."""
    fields = {name: value for name, value in entry.items() if name != "outcome"}
    if entry["outcome"] == Failure.__name__:
        return Failure(**fields)
    if entry["outcome"] == Skipped.__name__:
        return Skipped(**fields)
    runs = {name: _run(run) for name, run in fields.pop("runs").items()}
    differences = {
        name: Difference(**{**difference, "verdict": Verdict(difference["verdict"])})
        for name, difference in fields.pop("differences").items()
    }
    return PromptResult(**fields, runs=runs, differences=differences)


def _run(fields: dict[str, Any]) -> Run:
    answers = tuple(tuple(answer) for answer in fields["answers"])
    return Run(**{**fields, "answers": answers, "waits_s": tuple(fields["waits_s"])})

"""What a benchmark brings: a result for each prompt, failures, and how JSON holds them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lookahead.bench.methods.best_of import Trial
from lookahead.bench.run.differences import Difference, Verdict
from lookahead.bench.run.measuring import Run

RowId = str | int


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """One prompt (or one batch of them), answered by every method.

    Attributes:
        row_id: the row's id; of a batch all of them, joined.
        category: the row's category.
        prompt_tokens: how long the prompt is, chat template included; of a batch all together.
        runs: by method name.
        differences: by method name, where its answer leaves the baseline's; methods that agree are not in it.
    """

    row_id: RowId
    category: str
    prompt_tokens: int
    runs: dict[str, Run]
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A prompt that a method could not answer; no method is counted on it.

    Attributes:
        row_id: the row's id.
        method: the method that failed.
        error: the exception, in words.
    """

    row_id: RowId
    method: str
    error: str


@dataclass(frozen=True)
class Skipped:
    """A prompt that does not fit the model's context with the tokens to generate."""

    row_id: RowId


Outcome = PromptResult | Failure | Skipped


@dataclass
class BenchmarkResult:
    """What was measured, complete or up to an interruption.

    Attributes:
        results: a prompt each, in the order of the rows.
        skipped: ids of the rows that do not fit the model's context with the tokens to generate.
        failed: prompts that a method could not answer.
        trials: by method name, how its setting was chosen.
        interrupted: the user stopped it.
        resumed_prompts: how many of the prompts are from an earlier, interrupted run.
        warmed: memories held something before the first row.
        memory_source: how peak memory was measured; None where it was not.
    """

    results: list[PromptResult] = field(default_factory=list)
    skipped: list[RowId] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    interrupted: bool = False
    resumed_prompts: int = 0
    warmed: bool = False
    memory_source: str | None = None

    def add(self, outcome: Outcome) -> None:
        """Take in what became of a prompt."""
        if isinstance(outcome, PromptResult):
            self.results.append(outcome)
        elif isinstance(outcome, Failure):
            self.failed.append(outcome)
        else:
            self.skipped.append(outcome.row_id)


def outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON can hold it, with nothing lost."""
    return {"outcome": type(outcome).__name__, **asdict(outcome)}


def outcome_from_dict(entry: dict[str, Any]) -> Outcome:
    """Return the outcome that `outcome_as_dict` has written."""
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

"""Rounds in which every method serves the same requests, in an order that moves on from round to round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lookahead.bench.run.cases import Case
from lookahead.bench.run.differences import Verdict, first_difference, judge_difference
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.runner import rotated
from lookahead.bench.serving.arrivals import Arrivals, arrival_times
from lookahead.bench.serving.measuring import RealTimer, Round, Timer
from lookahead.bench.serving.methods import Load, LookaheadGenerate, Served, ServingMethod
from lookahead.bench.serving.registry import BASELINE

_WARM_UP_REQUESTS = 2
_WARM_UP_TOKENS = 12
_MOST_OF_ERROR = 500

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """What to measure.

    Attributes:
        cases: The requests, in the order of their arrival.
        methods: The methods, the baseline first.
        arrivals: How requests arrive.
        rate: Requests per second.
        rounds: Number of rounds.
        max_new_tokens: The most tokens of an answer.
        seed: Seed of the arrivals; each round has its own.
    """

    cases: Sequence[Case]
    methods: Sequence[ServingMethod]
    arrivals: Arrivals = Arrivals.ALL
    rate: float = 1.0
    rounds: int = 7
    max_new_tokens: int = 192
    seed: int = 0

    def load(self, index: int, known: Sequence[Sequence[int]], timer: Timer) -> Load:
        """Return the requests of a round."""
        prompts = [case.prompts()[0] for case in self.cases]
        return Load(
            prompts=prompts,
            arrivals=arrival_times(self.arrivals, len(prompts), self.rate, self.seed + index),
            max_new_tokens=self.max_new_tokens,
            known=known,
            timer=timer,
        )


@dataclass
class ServingResult:
    """Everything measured, complete or up to an interruption.

    Attributes:
        rounds: Of each round the figures by method.
        failed: Why methods could not serve the model, by name; they are not tried again.
        about: How methods serve the model, by name, where that is worth knowing.
        resumed: Number of rounds from an earlier, interrupted run.
        interrupted: Whether the user stopped the run.
    """

    rounds: list[dict[str, Figures]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    resumed: int = 0
    interrupted: bool = False


@dataclass(kw_only=True)
class _Session:
    plan: ServingPlan
    served: Served
    journal: Journal | None
    on_done: Callable[[], None]
    timer: Timer
    result: ServingResult = field(default_factory=ServingResult)
    verdicts: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Verdict] = field(default_factory=dict)


def run_serving(
    plan: ServingPlan,
    served: Served,
    *,
    journal: Journal | None = None,
    on_done: Callable[[], None] = lambda: None,
    timer: Timer | None = None,
) -> ServingResult:
    """Measure all rounds; Ctrl-C ends the run early with the results so far.

    Before the first one each method serves some short answers, and the baseline all requests once: its
    answers are what warm memories hold.

    Args:
        plan: What to measure.
        served: What is served.
        journal: Keeps each round as it ends; those that it holds are not measured again.
        on_done: Called after each method of a round.
        timer: The clock; by default the machine's.
    """
    session = _Session(plan=plan, served=served, journal=journal, on_done=on_done, timer=timer or RealTimer())
    try:
        _run(session)
    except KeyboardInterrupt:
        session.result.interrupted = True
    return session.result


def _run(session: _Session) -> None:
    plan, result = session.plan, session.result
    if not plan.cases:
        return
    for entry in session.journal.entries if session.journal is not None else ():
        result.rounds.append(entry["round"])
        result.failed.update(entry["failed"])
    result.resumed = len(result.rounds)
    methods = {method.name: method for method in plan.methods}
    for _ in range(result.resumed * len(methods)):
        session.on_done()
    if result.resumed >= plan.rounds:
        return
    known = _known(session)
    for method in methods.values():
        load = _first_requests(plan.load(0, known, session.timer), max(_WARM_UP_REQUESTS, method.rows))
        _try(session, method, load)
    for index in range(result.resumed, plan.rounds):
        load = plan.load(index, known, session.timer)
        _measure_round(session, rotated(methods, index), load)


def _known(session: _Session) -> list[list[int]]:
    """Return an answer to each prompt."""
    load = session.plan.load(0, (), session.timer)
    at_once = replace(load, arrivals=[0.0] * len(load.prompts))
    return LookaheadGenerate(BASELINE, session.served).serve(at_once).answers


def _first_requests(load: Load, count: int) -> Load:
    """Return a few requests with short answers that arrive at once: they set everything up."""
    prompts = load.prompts[:count]
    tokens = min(load.max_new_tokens, _WARM_UP_TOKENS)
    return replace(load, prompts=prompts, arrivals=[0.0] * len(prompts), max_new_tokens=tokens)


def _try(session: _Session, method: ServingMethod, load: Load) -> Round | None:
    """Let a method serve; return None and remember why if it cannot."""
    if method.name in session.result.failed:
        return None
    try:
        measured = method.serve(load)
    except Exception as error:  # noqa: BLE001  an hour of measuring must not end with one method
        errors = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        in_words = f"{type(errors[0]).__name__}: {errors[0]}"
        session.result.failed[method.name] = in_words[:_MOST_OF_ERROR]
        return None
    if method.about:
        session.result.about[method.name] = method.about
    return measured


def _measure_round(session: _Session, methods: Mapping[str, ServingMethod], load: Load) -> None:
    """Measure a round, compare its texts, and keep it."""
    measured = {}
    for name, method in methods.items():
        one = _try(session, method, load)
        if one is not None:
            measured[name] = one
        session.on_done()
    reference = measured[BASELINE].answers if BASELINE in measured else None
    figures = {
        name: {**one.figures(), **_differences(session, reference, one.answers)}
        for name, one in measured.items()
    }
    session.result.rounds.append(figures)
    if session.journal is not None:
        session.journal.append({"round": figures, "failed": session.result.failed})


def _differences(
    session: _Session, reference: Sequence[Sequence[int]] | None, answers: Sequence[Sequence[int]]
) -> dict[str, int | None]:
    """Return how many answers differ from the baseline's, and how many of these by more than rounding."""
    if reference is None:
        return {"differing": None, "errors": None}
    verdicts = [
        _verdict(session, index, tuple(theirs), tuple(ours))
        for index, (theirs, ours) in enumerate(zip(reference, answers, strict=True))
        if first_difference(theirs, ours) is not None
    ]
    return {"differing": len(verdicts), "errors": verdicts.count(Verdict.ERROR)}


def _verdict(session: _Session, index: int, reference: tuple[int, ...], answer: tuple[int, ...]) -> Verdict:
    """Return whether rounding explains a difference; the model is asked once for each."""
    key = (index, reference, answer)
    if key not in session.verdicts:
        prompt = session.plan.cases[index].inputs["input_ids"]
        found = judge_difference(session.served.model, prompt, reference, answer)
        session.verdicts[key] = Verdict.UNJUDGED if found is None else found.verdict
    return session.verdicts[key]

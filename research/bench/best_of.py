"""A method in several settings: the fastest on a few prompts is measured under the method's name."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lookahead.bench.data.datasets import Row, limit_rows
from lookahead.bench.methods.method import Inputs, Method, Output
from lookahead.bench.run.cases import Case, cases_of
from lookahead.bench.run.journal import Journal
from lookahead.bench.run.measuring import Clock, Run, measure
from lookahead.bench.run.runner import Plan, fits, rotated, warm_up

TRIAL_PROMPTS = 6
"""Prompts, of all categories, on which the settings are tried."""


class BestOf(Method):
    """The fastest of several methods; the first one until the trial.

    Args:
        name: Its name in options and reports.
        variants: The methods to choose from.
    """

    def __init__(self, name: str, variants: Sequence[Method]) -> None:
        self.name = name
        self.variants = {variant.name: variant for variant in variants}
        self.chosen = variants[0]

    def generate(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        *,
        settings: Mapping[str, Any],
        streamer: BaseStreamer | None,
    ) -> Output:
        """Answer with the chosen method."""
        return self.chosen.generate(model, inputs, settings=settings, streamer=streamer)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the chosen method prepare itself."""
        self.chosen.prepare(model, tokenizer)

    def remember(self, token_ids: Sequence[int]) -> None:
        """Let the chosen method learn a text."""
        self.chosen.remember(token_ids)

    def recall(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Let the chosen method learn an earlier request."""
        self.chosen.recall(prompt_ids, answer_ids)

    def forget(self) -> None:
        """Empty the chosen method's memory."""
        self.chosen.forget()

    def choose(self, cases: Sequence[Case], measured: Callable[[Method, Case], Run]) -> dict[str, Any]:
        """Choose the fastest method.

        Args:
            cases: The prompts of the trial.
            measured: Measures one call.

        Returns:
            The chosen method's name, each one's seconds, and the number of prompts.
        """
        seconds = dict.fromkeys(self.variants, 0.0)
        for index, case in enumerate(cases):
            for name, variant in rotated(self.variants, index).items():
                seconds[name] += measured(variant, case).total_s
        for variant in self.variants.values():
            variant.forget()
        chosen = min(seconds, key=seconds.__getitem__)
        self.chosen = self.variants[chosen]
        rounded = {name: round(spent, 4) for name, spent in seconds.items()}
        return {"chosen": chosen, "seconds": rounded, "prompts": len(cases)}


def run_trials(
    plan: Plan,
    rows: Sequence[Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    journal: Journal | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Let each `BestOf` of a plan choose on a few rows, or as the journal says; return the trials by name."""

    def measured(method: Method, case: Case) -> Run:
        return measure(method, model, case.inputs, settings=plan.settings, seed=plan.seed, clock=clock)

    entries = [] if journal is None else journal.entries
    trials = {entry["method"]: entry["trial"] for entry in entries if "trial" in entry}
    for method in plan.methods:
        if not isinstance(method, BestOf):
            continue
        if method.name not in trials:
            cases = cases_of(limit_rows(rows, TRIAL_PROMPTS), tokenizer, model)
            fitting = [case for case in cases if fits(case, model, plan.settings["max_new_tokens"])]
            warm_up(list(method.variants.values()), model, tokenizer)
            trials[method.name] = method.choose(fitting, measured)
            if journal is not None:
                journal.append({"trial": trials[method.name], "method": method.name})
        method.chosen = method.variants[trials[method.name]["chosen"]]
    return trials

"""Experiments: lists of methods that answer one question, and how the rows are presented.

To add one: add a line to `EXPERIMENTS`.
"""

from dataclasses import dataclass

from lookahead.bench.methods.registry import (
    LOOKAHEAD,
    LOOKAHEAD_FRESH,
    LOOKAHEAD_PLAIN,
    LOOKAHEAD_REPRODUCIBLE,
    PROMPT_LOOKUP,
    USUAL,
)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to measure to answer a question.

    Attributes:
        name: Its name in options.
        question: The question.
        methods: Names of methods, without the baseline.
        batch_sizes: Sizes of the batches that rows are answered in; empty for one by one.
        shuffles: Whether rows come in random order, so that growth is not an effect of the categories' order.
        measures_memory: Whether peak memory is measured, too.
    """

    name: str
    question: str
    methods: tuple[str, ...]
    batch_sizes: tuple[int, ...] = ()
    shuffles: bool = False
    measures_memory: bool = False


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(name="main", question="How fast is each method, by category?", methods=USUAL),
        Experiment(
            name="methods",
            question="How do the paper's variants, and others, compare?",
            methods=(
                PROMPT_LOOKUP,
                "llma",
                "lookahead-parallel",
                "lookahead-trie",
                "lookahead-log",
                LOOKAHEAD,
                LOOKAHEAD_PLAIN,
            ),
        ),
        Experiment(
            name="batch",
            question="What is left of it in batches?",
            methods=(LOOKAHEAD,),
            batch_sizes=(1, 2, 4, 8, 16),
        ),
        Experiment(
            name="peak-memory",
            question="How much memory does it take?",
            methods=(PROMPT_LOOKUP, LOOKAHEAD, LOOKAHEAD_PLAIN),
            measures_memory=True,
        ),
        Experiment(
            name="reproducible",
            question="What does text that depends on no draft cost?",
            methods=(LOOKAHEAD, LOOKAHEAD_REPRODUCIBLE, LOOKAHEAD_PLAIN),
        ),
        Experiment(
            name="warm-up",
            question="How many requests until the memory pays?",
            methods=(LOOKAHEAD, LOOKAHEAD_FRESH),
            shuffles=True,
        ),
    )
}
"""By name; `transformers` is in all of them."""

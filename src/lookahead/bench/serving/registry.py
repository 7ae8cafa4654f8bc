"""The ways of serving by name, and for which numbers of rows they are measured.

To add one: write a subclass of `ServingMethod`, and add a line to `KINDS`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lookahead.bench.serving.continuous import ContinuousBatching
from lookahead.bench.serving.engines import Drafts, EngineMethod
from lookahead.bench.serving.methods import Generate, LookaheadGenerate, Served, ServingMethod
from lookahead.errors import ConfigError

BASELINE = "la.generate"
"""Always measured: speeds and texts are compared with it."""
NOISE = "la.generate-again"
"""The baseline a second time. The distance between the two is the noise of the run."""
BATCHES = "generate-batch"
ONE_BY_ONE: Mapping[str, Callable[[str, Served], ServingMethod]] = {
    BASELINE: LookaheadGenerate,
    NOISE: LookaheadGenerate,
    "generate": Generate,
}
"""Methods that answer one request after the other."""
KINDS: Mapping[str, Callable[[str, Served, int], ServingMethod]] = {
    BATCHES: Generate,
    "continuous-batching": ContinuousBatching,
    "engine-off": partial(EngineMethod, drafts=Drafts.OFF),
    "engine-cold": partial(EngineMethod, drafts=Drafts.COLD),
    "engine-warm": partial(EngineMethod, drafts=Drafts.WARM),
}
"""Methods that answer several at once; the number of rows follows in the name: `engine-cold-8`."""


def engine_name(drafts: Drafts, rows: int) -> str:
    """Return the name of an engine."""
    return f"engine-{drafts.value}-{rows}"


def make_serving_methods(
    names: Sequence[str], rows: Sequence[int], served: Served, *, noise: bool = False
) -> list[ServingMethod]:
    """Return new methods, the baseline first.

    Args:
        names: Names of `ONE_BY_ONE` and `KINDS`; none means all but the baseline's second measurement.
        rows: The numbers of rows that those of `KINDS` are measured with.
        served: What is served.
        noise: Whether the baseline is measured twice.

    Raises:
        ConfigError: A name is unknown.
    """
    check_names(names)
    chosen = set(names) or {*ONE_BY_ONE, *KINDS} - {NOISE}
    chosen |= {BASELINE, NOISE} if noise else {BASELINE}
    alone = [make(name, served) for name, make in ONE_BY_ONE.items() if name in chosen]
    several = [
        make(f"{name}-{count}", served, count)
        for count in dict.fromkeys(rows)
        for name, make in KINDS.items()
        if name in chosen and (name, count) != (BATCHES, 1)  # which is one by one
    ]
    return [*alone, *several]


def check_names(names: Sequence[str]) -> None:
    """Refuse names of unknown methods.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        if name not in ONE_BY_ONE and name not in KINDS:
            message = f"method {name!r} is unknown; choose from {', '.join([*ONE_BY_ONE, *KINDS])}"
            raise ConfigError(message)

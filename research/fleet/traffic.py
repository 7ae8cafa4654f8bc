"""Who asks what, and when: the requests of a whole fleet, before they are routed.

Requests arrive by a Poisson process. Each is of a tenant, drawn from a Zipf distribution. With the given
probability it repeats a question: that of an earlier request of its tenant, all of them equally likely, so
that what was asked often is asked more often. Otherwise, or if its tenant has asked nothing yet, it is new.

    tenant   3  0  3  3  0
    new?     x  x     x        questions of tenant 3: 0, 0, 1; of tenant 0: 0, 0
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import BoolArray, Float64Array, Int64Array
from lookahead.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrafficSettings:
    """What is assumed about the users.

    Attributes:
        duration_s: Seconds that are simulated.
        requests_per_s: Of the whole fleet, on average.
        tenants: Of the whole fleet.
        zipf: The tenant of rank i has requests in proportion to 1 / i^zipf; 0 makes all alike.
        repeated: The share of requests that repeat an earlier question of their tenant.
        seed: Of all that is drawn.

    Raises:
        ConfigError: A setting is out of range.
    """

    duration_s: float
    requests_per_s: float
    tenants: int
    zipf: float = 1.0
    repeated: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("duration_s", self.duration_s, is_allowed=0 < self.duration_s < np.inf, allowed="above 0")
        is_rate = 0 < self.requests_per_s < np.inf
        _check("requests_per_s", self.requests_per_s, is_allowed=is_rate, allowed="above 0")
        _check("tenants", self.tenants, is_allowed=self.tenants >= 1, allowed="of at least 1")
        _check("zipf", self.zipf, is_allowed=0 <= self.zipf < np.inf, allowed="of at least 0")
        _check("repeated", self.repeated, is_allowed=0 <= self.repeated <= 1, allowed="from 0 to 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class Traffic:
    """Requests, in the order of their arrival; all arrays are [requests].

    Attributes:
        settings: What was assumed.
        times: float64, seconds.
        tenants: int64.
        questions: int64, the number of the question among those of its tenant.
        is_repeated: bool, whether its tenant has asked that before.
    """

    settings: TrafficSettings
    times: Float64Array
    tenants: Int64Array
    questions: Int64Array
    is_repeated: BoolArray

    def __len__(self) -> int:
        return len(self.times)


def make_traffic(settings: TrafficSettings) -> Traffic:
    """Return requests drawn as the settings say.

    Raises:
        ConfigError: Not one request arrives.
    """
    rng = np.random.default_rng(settings.seed)
    count = int(rng.poisson(settings.requests_per_s * settings.duration_s))
    if count == 0:
        message = f"no request arrives within {settings.duration_s} s; give a longer time or a higher rate"
        raise ConfigError(message)
    times = np.sort(rng.uniform(0, settings.duration_s, count))
    weights = 1.0 / np.arange(1, settings.tenants + 1) ** settings.zipf
    tenants = rng.choice(settings.tenants, count, p=weights / weights.sum())
    questions, is_repeated = _questions(tenants, rng.random((count, 2)), settings.repeated)
    return Traffic(
        settings=settings, times=times, tenants=tenants, questions=questions, is_repeated=is_repeated
    )


def _questions(tenants: Int64Array, drawn: Float64Array, repeated: float) -> tuple[Int64Array, BoolArray]:
    """Return the number of each request's question, and whether it was asked before."""
    asked: dict[int, list[int]] = {}
    known: dict[int, int] = {}
    questions = np.zeros(len(tenants), np.int64)
    is_repeated: npt.NDArray[np.bool_] = np.zeros(len(tenants), np.bool_)
    for index, (tenant, (whether, which)) in enumerate(zip(tenants.tolist(), drawn.tolist(), strict=True)):
        before = asked.setdefault(tenant, [])
        if before and whether < repeated:
            questions[index] = before[int(which * len(before))]
            is_repeated[index] = True
        else:
            questions[index] = known.get(tenant, 0)
            known[tenant] = int(questions[index]) + 1
        before.append(int(questions[index]))
    return questions, is_repeated


def _check(name: str, value: float, *, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        message = f"{name}={value} is not allowed; give a number {allowed}"
        raise ConfigError(message)

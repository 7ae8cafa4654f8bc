"""Metrics for Prometheus, under vLLM's names where the meaning is the same."""

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.engine.events import Event, Finish, FinishReason
from lookahead.engine.protocol import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LABELS = ["model_name"]
"""As vLLM's: its dashboards ask by it."""
_MAX_NAMESPACES = 50
"""Namespaces with a label of their own; the others are one."""
_OTHERS = "_others"
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.ERROR: "error",
}


class Metrics:
    """Counts what the server does.

    Args:
        prefix: What all names begin with.
        model: The model's name, a label of all.
        engine: Counts what it does itself; asked at each scrape.
        memory: The draft memory; asked at each scrape.
        may_name: Whether a namespace's name may be a label: names of tenants may be none of others' business.
    """

    def __init__(
        self,
        prefix: str,
        model: str,
        engine: Engine,
        memory: DraftMemory,
        *,
        may_name: Callable[[str], bool],
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        begin = f"{prefix}:"

        def histogram(name: str, about: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            made = Histogram(begin + name, about, _LABELS, registry=self.registry, buckets=buckets)
            return made.labels(model)

        def counter(name: str, about: str, labels: Sequence[str]) -> Counter:
            return Counter(begin + name, about, [*_LABELS, *labels], registry=self.registry)

        self.first_token = histogram("time_to_first_token_seconds", "From a request to its first token.")
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between two events of an answer, per token.", _STEP_SECONDS
        )
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Of an answer after its first token.", _STEP_SECONDS
        )
        self.end_to_end = histogram("e2e_request_latency_seconds", "From a request to its last token.")
        self.queue = histogram("request_queue_time_seconds", "Until a request has a row.")
        self.prefill = histogram("request_prefill_time_seconds", "From its row to its first token.")
        self.decode = histogram("request_decode_time_seconds", "From its first token to its last.")
        self.refused = counter("admission_rejections", "Requests that were not taken.", ["endpoint"])
        self.responses = counter("http_responses", "Responses by status.", ["status"])
        self._model = model
        self.registry.register(_EngineCollector(begin, model, engine, memory, may_name))

    def count_response(self, status: int) -> None:
        """Count a response."""
        self.responses.labels(self._model, str(status)).inc()

    def count_refusal(self, endpoint: str) -> None:
        """Count a request that was not taken."""
        self.refused.labels(self._model, endpoint).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return generate_latest(self.registry)


class RequestObserver:
    """Observes the events of one HTTP request.

    Args:
        metrics: Where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begin = time.perf_counter()
        self._last: dict[int, float] = {}

    def observe(self, choice: int, event: Event) -> None:
        """Count an event of a choice."""
        now = time.perf_counter()
        if event.tokens:
            if choice in self._last:
                gap = (now - self._last[choice]) / len(event.tokens)
                for _ in event.tokens:
                    self._metrics.inter_token.observe(gap)
            else:
                self._metrics.first_token.observe(now - self._begin)
            self._last[choice] = now
        if event.finish is not None:
            self._finished(event.finish, now)

    def _finished(self, finish: Finish, now: float) -> None:
        metrics, usage, seconds = self._metrics, finish.usage, finish.seconds
        metrics.end_to_end.observe(now - self._begin)
        metrics.queue.observe(seconds.queued)
        metrics.prefill.observe(seconds.prompt)
        metrics.decode.observe(seconds.decode)
        if usage.completion_tokens > 1:
            metrics.per_token.observe(seconds.decode / (usage.completion_tokens - 1))


class _EngineCollector(Collector):
    def __init__(
        self,
        begin: str,
        model: str,
        engine: Engine,
        memory: DraftMemory,
        may_name: Callable[[str], bool],
    ) -> None:
        self._begin, self._model, self._engine = begin, model, engine
        self._memory, self._may_name = memory, may_name

    def describe(self) -> list[Metric]:
        """Return nothing: asking the engine before it is ready would."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return what the engine and the memory count."""
        stats = self._engine.stats()
        made = stats.generation
        gauges = {
            "num_requests_running": (stats.running, "Requests that have a row."),
            "num_requests_waiting": (stats.waiting, "Requests that wait for a row."),
            "kv_cache_usage_perc": (
                (stats.cache_tokens + stats.prefix_tokens) / max(1, stats.max_cache_tokens),
                "Share of the cache that is used, 1 for all.",
            ),
            "memory_bytes": (self._memory.nbytes, "Bytes of the draft memory."),
            "prefix_cache_tokens": (stats.prefix_tokens, "Tokens in the prefix cache."),
        }
        counters = {
            "prompt_tokens": (stats.prompt_tokens, "Tokens of prompts, once for each choice."),
            "generation_tokens": (stats.completion_tokens, "Tokens of answers."),
            "prefix_cache_queries": (stats.prefix_queries, "Tokens that were looked up in the prefix cache."),
            "prefix_cache_hits": (stats.prefix_hits, "Tokens that it held."),
            "num_preemptions": (stats.preemptions, "Rows that were taken away for others."),
            "verified_tokens": (made.row_steps + made.draft_tokens, "Tokens that forward passes verified."),
            "forwards": (made.forwards, "Forward passes that decoded."),
            "spec_decode_num_drafts": (stats.drafts, "Drafts of a row."),
            "spec_decode_num_draft_tokens": (made.draft_tokens, "Tokens that were drafted."),
            "spec_decode_num_accepted_tokens": (made.accepted_tokens, "Drafted tokens that were right."),
        }
        for name, (value, about) in gauges.items():
            gauge = GaugeMetricFamily(self._begin + name, about, labels=_LABELS)
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (value, about) in counters.items():
            counter = CounterMetricFamily(self._begin + name, about, labels=_LABELS)
            counter.add_metric([self._model], value)
            yield counter
        success = CounterMetricFamily(
            self._begin + "request_success", "Answers that ended.", labels=[*_LABELS, "finished_reason"]
        )
        for reason, count in stats.finished.items():
            success.add_metric([self._model, _REASONS[FinishReason(reason)]], count)
        yield success
        per_place = CounterMetricFamily(
            self._begin + "spec_decode_num_accepted_tokens_per_pos",
            "By depth in the draft.",
            labels=[*_LABELS, "position"],
        )
        for position, count in enumerate(stats.accepted_by_depth):
            per_place.add_metric([self._model, str(position)], count)
        yield per_place
        seconds = CounterMetricFamily(
            self._begin + "step_seconds",
            "Seconds of steps by what they were spent on.",
            labels=[*_LABELS, "part"],
        )
        for part in ("draft", "model", "verify", "cache", "recycle"):
            seconds.add_metric([self._model, part], getattr(made, f"{part}_s"))
        yield seconds
        yield self._memory_tokens()

    def _memory_tokens(self) -> Metric:
        """Return the tokens of each namespace, a few by name."""
        family = GaugeMetricFamily(
            self._begin + "memory_tokens", "Tokens in the draft memory.", labels=[*_LABELS, "namespace"]
        )
        named, others = 0, 0
        for name, tokens in self._memory.namespaces.items():
            if named < _MAX_NAMESPACES and self._may_name(name):
                family.add_metric([self._model, name], tokens)
                named += 1
            else:
                others += tokens
        if others:
            family.add_metric([self._model, _OTHERS], others)
        return family

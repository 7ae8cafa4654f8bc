"""Runs random calls with and without Lookahead and says where they differ."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)
from transformers.generation.streamers import BaseStreamer

from fuzz.fuzz_cases import Case
from helpers.tiny_models import COMPILED, tiny_model, tiny_tokenizer
from lookahead import DraftMemory, Lookahead, LookaheadConfig
from research.families.families import VOCABULARY

_WATERMARKS = {
    "greenlist": lambda: WatermarkingConfig(bias=2.0, seeding_scheme="lefthash"),
    "synthid": lambda: SynthIDTextWatermarkingConfig(ngram_len=3, keys=[3, 5, 7, 11]),
}


class Witness(LogitsProcessor, StoppingCriteria, BaseStreamer):
    """A caller's processor, criterion and streamer: new at every call, and they remember all they saw."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        if isinstance(scores, torch.Tensor):
            return self._process(input_ids, scores)
        self.events.append(("judge", input_ids.tolist()))
        return (input_ids[:, -1] + len(self.events)) % 29 == 0

    def _process(self, input_ids, scores):
        self.events.append(("process", input_ids.tolist()))
        self.scores.append(scores.clone())
        liked = (input_ids[:, -1] * 7 + len(self.events)) % VOCABULARY if input_ids.shape[1] else 0
        changed = scores.clone()
        changed[torch.arange(len(scores)), liked] += 2.0
        return changed + 0.25 * changed.roll(1, dims=0).clamp(-20, 20)

    def put(self, value):
        self.events.append(("put", value.tolist()))

    def end(self):
        self.events.append(("end",))

    def allowed_next(self, row, token_ids):
        self.events.append(("prefix", row, token_ids.tolist()))
        start = 7 * int(token_ids[-1]) + len(token_ids) if len(token_ids) else 0
        return [(start + 5 * step) % VOCABULARY for step in range(20)]


@dataclass
class Outcome:
    """What a call came to.

    Attributes:
        error: the type of what it raised, and its message.
        tokens: what it returned, as lists.
        kind: the type of what it returned and, of a dict, its keys.
        numbers: what has to agree approximately.
        random: torch's next random number.
        events: what callbacks of the caller's own saw.
    """

    error: tuple[type, str] | None = None
    tokens: list[list[int]] = field(default_factory=list)
    kind: object = None
    numbers: dict[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    random: float = 0.0
    events: list[Any] = field(default_factory=list)


@dataclass
class Tally:
    """What became of the cases: how many were compared, refused by `generate` as well, and different."""

    compared: int = 0
    refused_by_both: int = 0
    tokens: int = 0
    accepted_tokens: int = 0
    differences: list[str] = field(default_factory=list)

    def summary(self) -> str:
        return (
            f"{self.compared} calls compared, {self.refused_by_both} refused by generate as well, "
            f"{len(self.differences)} differences; "
            f"{self.accepted_tokens} of {self.tokens} tokens came from drafts"
        )


def try_case(case: Case, tally: Tally) -> None:
    """Do a call without Lookahead and twice with it, the second time with what the first has learned."""
    model = _model(case.family, case.dtype)
    lookahead = _lookahead(case, model)
    with _as_wanted(model, case):
        expected = _outcome(case, model, model.generate)
        for attempt in ("first", "second"):
            found = difference(_outcome(case, model, _accelerated(case, model, lookahead)), expected)
            if found:
                tally.differences.append(f"{attempt} run: {found}\n    {case}")
                return
    if expected.error is None:
        tally.compared += 1
    else:
        tally.refused_by_both += 1
    tally.tokens += lookahead.stats.tokens
    tally.accepted_tokens += lookahead.stats.accepted_tokens


def difference(actual: Outcome, expected: Outcome) -> str:
    """Return in words how two outcomes differ; empty where they do not."""
    if (actual.error is None) != (expected.error is None):
        return f"generate raised {expected.error}, with Lookahead {actual.error}"
    if expected.error is not None:
        return "" if actual.error[0] is expected.error[0] else f"{expected.error} became {actual.error}"
    for name in ("tokens", "kind", "random", "events"):
        one, other = getattr(actual, name), getattr(expected, name)
        if one != other:
            return f"{name} differ:\n    actual   {one!r:.3000}\n    expected {other!r:.3000}"
    for name, wanted in expected.numbers.items():
        for step, (one, other) in enumerate(zip(actual.numbers[name], wanted, strict=True)):
            if not torch.allclose(one, other, rtol=2e-3, atol=2e-3, equal_nan=True):
                return f"{name} of step {step} differ:\n    actual   {one}\n    expected {other}"
    return ""


@lru_cache(maxsize=24)
def _model(family: str, dtype: str) -> PreTrainedModel:
    settings = {"vocab_size": VOCABULARY} if family in COMPILED else {}
    model = tiny_model(family, getattr(torch, dtype), **settings)
    if dtype == "float64" and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # others compute in no more than single precision
    return model


@contextmanager
def _as_wanted(model: PreTrainedModel, case: Case) -> Iterator[None]:
    """Within, the model has the case's attention and, where they are set there, its settings."""
    own, own_attention = copy.deepcopy(model.generation_config), model.config._attn_implementation
    if case.attention == "eager":
        model.set_attn_implementation("eager")
    if case.set_by == "model":
        for name, value in _settings(case).items():
            setattr(model.generation_config, name, value)
    try:
        yield
    finally:
        model.generation_config = own
        if case.attention == "eager":
            model.set_attn_implementation(own_attention)


def _settings(case: Case) -> dict[str, Any]:
    """Return the settings of `generate` as it wants them."""
    settings = dict(case.generation)
    if "watermark" in settings:
        settings["watermarking_config"] = _WATERMARKS[settings.pop("watermark")]()
    return settings


def _arguments(case: Case, model: PreTrainedModel, witness: Witness) -> dict[str, Any]:
    """Return the arguments of `generate`, made anew: some of them keep something."""
    token_ids = torch.tensor([(0,) * (case.longest - len(row)) + row for row in case.prompts])
    arguments: dict[str, Any] = {"input_ids": token_ids}
    if case.inputs == "embeddings":
        arguments = {"inputs_embeds": model.get_input_embeddings()(token_ids)}
    padding = torch.tensor([case.longest - len(row) for row in case.prompts])[:, None]
    seen = torch.arange(case.longest)[None] >= padding
    seen[:, list(case.holes)] = False
    if case.first_position is not None:
        arguments["position_ids"] = (seen.cumsum(dim=1) - 1).clamp(min=0) + case.first_position
    if case.mask != "none":
        arguments["attention_mask"] = seen if case.mask == "bool" else seen.long()
    settings = _settings(case)
    if case.set_by == "arguments":
        arguments |= settings
    if case.set_by == "config":
        arguments["generation_config"] = GenerationConfig(**settings)
    if case.stop_strings:
        arguments |= {"stop_strings": list(case.stop_strings), "tokenizer": tiny_tokenizer()}
    roles = {
        "processor": {"logits_processor": LogitsProcessorList([witness])},
        "criterion": {"stopping_criteria": StoppingCriteriaList([witness])},
        "streamer": {"streamer": witness},
        "prefix": {"prefix_allowed_tokens_fn": witness.allowed_next},
    }
    for role in case.callbacks:
        arguments |= roles[role]
    return arguments


def _lookahead(case: Case, model: PreTrainedModel) -> Lookahead:
    """Return a Lookahead with the case's memory."""
    config = LookaheadConfig(**case.config)
    memories = {
        "prompts": lambda: DraftMemory(max_bytes=config.max_bytes, remember_prompts=True),
        "trie": lambda: DraftMemory(store="trie"),
        "warm trie": lambda: DraftMemory(store="trie"),
    }
    lookahead = Lookahead(config, memory=memories.get(case.memory, lambda: None)())
    if case.memory == "junk":
        generator = torch.Generator().manual_seed(case.seed)
        lookahead.memory.warm(torch.randint(0, VOCABULARY, (20, 100), generator=generator).tolist())
    if "warm" in case.memory:
        for row in case.prompts:
            lookahead.generate(model, torch.tensor([row]), max_new_tokens=30, do_sample=False)
    lookahead.reset_stats()
    return lookahead


def _accelerated(case: Case, model: PreTrainedModel, lookahead: Lookahead) -> Callable[..., Any]:
    """Return the `generate` of the case's way to turn Lookahead on."""

    def attached(**arguments: Any) -> Any:
        with lookahead.attach(model, **case.namespaces):
            return model.generate(**arguments)

    return {
        "custom_generate": partial(model.generate, custom_generate=lookahead, **case.namespaces),
        "generate": partial(lookahead.generate, model, **case.namespaces),
        "attach": attached,
    }[case.way]


def _outcome(case: Case, model: PreTrainedModel, generate: Callable[..., Any]) -> Outcome:
    witness = Witness()
    torch.manual_seed(case.seed)
    try:
        returned = generate(**_arguments(case, model, witness))
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        return Outcome(error=(type(error), f"{error!r:.500}"))
    outcome = Outcome(random=torch.rand(1).item(), events=witness.events, kind=type(returned))
    outcome.numbers["processor"] = tuple(witness.scores)
    if not isinstance(returned, torch.Tensor):
        outcome.kind = (type(returned), sorted(returned.keys()))
        outcome.numbers |= {name: returned[name] for name in ("scores", "logits") if name in returned}
        returned = returned.sequences
    outcome.tokens = returned.tolist()
    return outcome

"""What the bodies of several endpoints share."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lookahead.engine.request import MAX_TOP_LOGPROBS
from lookahead.server.http.errors import ApiError

MAX_CHOICES = 128
MAX_STOP_STRINGS = 64
MAX_TOKEN = 2**31 - 1
MAX_LISTED = 65536
"""Entries of a list or a mapping of a body, where no other limit is named."""
MAX_SEED = 2**63 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN)]


class Part(BaseModel):
    """A part of a body: wrong types are errors, unknown fields are kept for `unknown_fields`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Body(Part):
    """A whole body: its strings are valid Unicode."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, value: Any) -> Any:
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                waiting += [*one.keys(), *one.values()]
            elif isinstance(one, list):
                waiting += one
            elif isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    message = "a string has a lone surrogate; send valid Unicode text"
                    raise ValueError(message) from None
        return value


class StreamOptions(Part):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class LookaheadOptions(Part):
    """Our own field of a body; a typing error in it would put a text into another namespace.

    Attributes:
        namespace: Whose memory the answer is drafted from and remembered in.
        reads: Further namespaces to draft from.
        remember: Whether the answer is remembered for later requests.
        sources: Whether each chunk of a stream says where its token came from.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    namespace: str | None = None
    reads: Annotated[list[str], Field(max_length=64)] = []
    remember: bool = True
    sources: bool = False


class JsonSchema(Part):
    """A named JSON schema."""

    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Part):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            message = "json_schema is missing; give {'name': …, 'schema': …}"
            raise ValueError(message)
        return self


class StructuredOutputs(Part):
    """What form the answer has, in vLLM's words; one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str] | None, Field(min_length=1, max_length=1024)] = None
    grammar: str | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [self.json_, self.regex, self.choice, self.grammar, self.json_object or None]
        if sum(one is not None for one in given) != 1:
            message = "give one of json, regex, choice, grammar and json_object"
            raise ValueError(message)
        return self


class AnswerBody(Body):
    """The fields that all endpoints with answers share, with OpenAI's defaults."""

    unserved: ClassVar[dict[str, str]] = {}
    """Known fields that are not served, each with the reason. They may be null, false or empty."""
    harmless: ClassVar[dict[str, Any]] = {
        "best_of": 1,
        "length_penalty": 1.0,
        "modalities": ["text"],
        "verbosity": "medium",
    }
    """Values of such fields that ask for what is served."""

    model: str | None = None
    temperature: Annotated[float | None, Field(ge=0)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stream: bool | None = None
    user: str | None = None
    top_k: Annotated[int | None, Field(ge=-1, le=MAX_TOKEN)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), le=MAX_SEED)] = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    logit_bias: Annotated[dict[str, float] | None, Field(max_length=MAX_LISTED)] = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKEN)] = 0
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=MAX_LISTED)] = None
    bad_words: Annotated[list[str] | None, Field(max_length=1024)] = None
    allowed_token_ids: Annotated[list[TokenId] | None, Field(min_length=1, max_length=MAX_LISTED)] = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    priority: Annotated[int, Field(ge=-MAX_TOKEN, le=MAX_TOKEN)] = 0
    cache_salt: Annotated[str | None, Field(min_length=1, max_length=4096)] = None
    lookahead: LookaheadOptions = LookaheadOptions()

    @model_validator(mode="after")
    def _sources_need_a_stream(self) -> Self:
        if self.lookahead.sources and not self.stream:
            message = "lookahead.sources is only allowed when stream is true"
            raise ValueError(message)
        return self

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings; empty ones are none."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is wanted in parts."""
        return bool(self.stream)

    def unknown_fields(self) -> list[str]:
        """Return the names of fields that this server does not know.

        Raises:
            ApiError: A field is known but not served.
        """
        unknown = []
        for name, value in (self.model_extra or {}).items():
            if name not in self.unserved:
                unknown.append(name)
            elif not (value is None or value is False or value in ([], {}, "", self.harmless.get(name))):
                message = f"{name} is not served: {self.unserved[name]}; leave it out"
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        return unknown


UNSERVED = {
    "guided_json": "structured_outputs replaces it",
    "guided_regex": "structured_outputs replaces it",
    "guided_choice": "structured_outputs replaces it",
    "guided_grammar": "structured_outputs replaces it",
    "use_beam_search": "answers are sampled or greedy",
    "length_penalty": "it belongs to beam search",
    "truncate_prompt_tokens": "shorten the prompt",
    "request_id": "send it in the header x-request-id",
}
"""What no endpoint serves, with the reason."""


class ManyAnswersBody(AnswerBody):
    """The fields that chat and text completions share."""

    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=MAX_TOKEN)] = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            message = "stream_options is only allowed when stream is true"
            raise ValueError(message)
        return self

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1


TopLogprobs = Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)]

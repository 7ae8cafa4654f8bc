"""The body of `/v1/chat/completions`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lookahead.server.protocol.common import (
    MAX_LISTED,
    MAX_TOKEN,
    UNSERVED,
    ManyAnswersBody,
    Part,
    TopLogprobs,
)

MAX_MESSAGES = 4096
MAX_TOOLS = 128
_NO_AUDIO = "this server reads and writes text"


class TextPart(Part):
    """A part of a message; only text is served."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Part):
    """A refusal of an assistant."""

    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class CalledFunction(Part):
    """A call of a function: its arguments are JSON in a string."""

    name: str
    arguments: str = "{}"


class ToolCall(Part):
    """A call that an assistant made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Part):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall] | None, Field(max_length=MAX_TOOLS)] = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """Its text, all parts in one."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)


class Function(Part):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool; only functions are served."""

    type: Literal["function"]
    function: Function


class FunctionName(Part):
    """The name of a function."""

    name: str


class NamedTool(Part):
    """The one tool that is to be called."""

    type: Literal["function"] = "function"
    function: FunctionName


class Prediction(Part):
    """A text that the answer may resemble; it is drafted from and changes nothing else."""

    type: Literal["content"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The text, all parts in one."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(ManyAnswersBody):
    """The body of a chat completion."""

    unserved: ClassVar[dict[str, str]] = {
        **UNSERVED,
        "echo": "it belongs to /v1/completions",
        "audio": _NO_AUDIO,
        "modalities": _NO_AUDIO,
        "web_search_options": "this server searches nothing",
        "functions": "tools replace it",
        "function_call": "tool_choice replaces it",
        "store": "this server keeps no answers",
        "verbosity": "ask for it in a message",
        "chat_template": "templates come with the model, not from clients",
        "documents": "put them into a message",
        "mm_processor_kwargs": _NO_AUDIO,
        "prompt_logprobs": "use /v1/completions with echo and logprobs",
        "best_of": "use n",
    }

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MAX_TOKEN)] = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs = None
    tools: Annotated[list[Tool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, Field(max_length=64)] = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    metadata: Annotated[dict[str, str] | None, Field(max_length=MAX_LISTED)] = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            message = "top_logprobs is only allowed when logprobs is true"
            raise ValueError(message)
        if self.continue_final_message and self.add_generation_prompt:
            message = "continue_final_message needs add_generation_prompt: false"
            raise ValueError(message)
        names = [tool.function.name for tool in self.tools or []]
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.function.name not in names:
                message = (
                    f"tool_choice names {self.tool_choice.function.name!r:.80}, which is none of the tools"
                )
                raise ValueError(message)
        elif self.tool_choice == "required" and not names:
            message = "tool_choice is 'required', but there are no tools"
            raise ValueError(message)
        if len(set(names)) < len(names):
            message = "two tools have the same name"
            raise ValueError(message)
        return self

    @property
    def max_answer_tokens(self) -> int | None:
        """The most tokens of an answer, by either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def logprobs_wanted(self) -> int | None:
        """How many most probable tokens are wanted at each token; None for no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

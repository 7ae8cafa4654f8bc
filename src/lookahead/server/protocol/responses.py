"""The body of `/v1/responses`, as far as it needs no stored state."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lookahead.server.protocol.chat import (
    MAX_MESSAGES,
    MAX_TOOLS,
    CalledFunction,
    ContentPart,
    Function,
    FunctionName,
    Message,
    NamedTool,
    Tool,
    ToolCall,
)
from lookahead.server.protocol.common import (
    MAX_LISTED,
    MAX_TOKEN,
    UNSERVED,
    AnswerBody,
    JsonSchema,
    Part,
    ResponseFormat,
    TopLogprobs,
)

_STATELESS = "this server keeps no responses; send the whole conversation as input"


class InputMessage(Part):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]


class InputCall(Part):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputCallOutput(Part):
    """What a call returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str


class FlatTool(Function):
    """A function that the model may call; this endpoint has no object within."""

    type: Literal["function"]


class FlatNamedTool(FunctionName):
    """The one tool that is to be called."""

    type: Literal["function"]


class TextFormat(JsonSchema):
    """What form the answer has; this endpoint has no object within."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(Part):
    """Options of text."""

    format: TextFormat = TextFormat()
    verbosity: None = None


class ReasoningOptions(Part):
    """Options of reasoning."""

    effort: str | None = None
    summary: None = None


class ResponsesBody(AnswerBody):
    """The body of a response."""

    unserved: ClassVar[dict[str, str]] = {
        **UNSERVED,
        "n": "a response is one answer",
        "previous_response_id": _STATELESS,
        "conversation": _STATELESS,
        "background": "responses are answered at once",
        "prompt": "this server keeps no prompts",
        "max_tool_calls": "this server calls no tools itself",
        "context_management": _STATELESS,
    }

    input: (
        str
        | Annotated[
            list[InputMessage | InputCall | InputCallOutput], Field(min_length=1, max_length=MAX_MESSAGES)
        ]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1, le=MAX_TOKEN)] = None
    text: TextOptions = TextOptions()
    tools: Annotated[list[FlatTool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | FlatNamedTool | None = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: TopLogprobs = None
    reasoning: ReasoningOptions | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: Annotated[dict[str, str] | None, Field(max_length=MAX_LISTED)] = None
    service_tier: str | None = None
    stream_options: Any = None

    def as_chat(self) -> dict[str, Any]:
        """Return the fields of the chat completion that this stands for, besides those of all bodies."""
        wants_logprobs = bool(self.include) or self.top_logprobs is not None
        return {
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "tools": [_as_tool(tool) for tool in self.tools or []] or None,
            "tool_choice": NamedTool(function=FunctionName(name=self.tool_choice.name))
            if isinstance(self.tool_choice, FlatNamedTool)
            else self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _as_response_format(self.text.format),
            "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
            "logprobs": wants_logprobs,
            "top_logprobs": (self.top_logprobs or 0) if wants_logprobs else None,
        }

    def _messages(self) -> list[Message]:
        messages = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        if isinstance(self.input, str):
            return [*messages, Message(role="user", content=self.input)]
        for item in self.input:
            if isinstance(item, InputMessage):
                messages.append(Message(role=item.role, content=item.content))
            elif isinstance(item, InputCallOutput):
                messages.append(Message(role="tool", content=item.output, tool_call_id=item.call_id))
            else:
                call = ToolCall(
                    id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments)
                )
                messages.append(Message(role="assistant", tool_calls=[call]))
        return messages


def _as_tool(tool: FlatTool) -> Tool:
    fields = tool.model_dump(exclude={"type"}, exclude_none=True)
    return Tool(type="function", function=Function(**fields))


def _as_response_format(form: TextFormat) -> ResponseFormat | None:
    if form.type == "text":
        return None
    if form.type == "json_object":
        return ResponseFormat(type="json_object")
    fields = form.model_dump(by_alias=True, exclude={"type"})
    schema = JsonSchema.model_validate(fields)
    return ResponseFormat(type="json_schema", json_schema=schema)

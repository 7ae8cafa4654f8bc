"""Prompts: messages through the model's own chat template, texts through its tokenizer."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from lookahead.server.answers.tools.formats import ToolFormat, tool_format, without_tool_messages
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.chat import ChatBody, Message, Tool
from lookahead.server.served_model import ServedModel

_RESERVED = (
    "conversation",
    "messages",
    "tools",
    "chat_template",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "return_tensors",
    "return_dict",
)
"""Arguments of the template that are not the client's to set."""


def chat_prompt(
    model: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    template_arguments: dict[str, Any] | None = None,
) -> list[int]:
    """Return the tokens of a chat.

    Raises:
        ApiError: The model has no template, or its template refuses the messages.
    """
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        raise ApiError(400, "the model has no chat template; use /v1/completions", code="no_chat_template")
    for name in template_arguments or {}:
        if name in _RESERVED:
            raise ApiError(400, f"chat_template_kwargs.{name} is not allowed", param="chat_template_kwargs")
    listed = [_as_template_message(message) for message in messages]
    given = [tool.model_dump(exclude_none=True) for tool in tools]
    if tool_format(model.tokenizer) is ToolFormat.OURS:
        listed, given = without_tool_messages(listed, given), []
    try:
        text = tokenizer.apply_chat_template(
            listed,
            tools=given or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(template_arguments or {}),
        )
    except (TemplateError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        message = f"the model's chat template refuses these messages: {error}"[:500]
        raise ApiError(400, message, param="messages") from None
    return text_tokens(model, text, adds_special=False)


def chat_prompt_of(model: ServedModel, body: ChatBody) -> list[int]:
    """Return the tokens of a chat completion's prompt.

    Raises:
        ApiError: As `chat_prompt`.
    """
    arguments = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        arguments.setdefault("reasoning_effort", body.reasoning_effort)
    uses_tools = body.tools and body.tool_choice != "none"
    return chat_prompt(
        model,
        body.messages,
        tools=body.tools or () if uses_tools else (),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        template_arguments=arguments,
    )


def text_tokens(model: ServedModel, text: str, *, adds_special: bool) -> list[int]:
    """Return the tokens of a text.

    Raises:
        ApiError: It has none.
    """
    tokens: list[int] = model.tokenizer(text, add_special_tokens=adds_special)["input_ids"]
    if not tokens:
        raise ApiError(400, "the prompt has no tokens; give some text", param="prompt")
    return tokens


def check_tokens(model: ServedModel, tokens: Sequence[int], param: str) -> None:
    """Refuse tokens that the model does not have.

    Raises:
        ApiError: There is one.
    """
    beyond = next((token for token in tokens if token >= model.vocabulary_size), None)
    if beyond is not None:
        last = model.vocabulary_size - 1
        message = f"{param} has the token {beyond}; the model's vocabulary ends at {last}"
        raise ApiError(400, message, param=param)


def _as_template_message(message: Message) -> dict[str, Any]:
    """Return a message as templates expect it: text content, arguments of calls as objects."""
    role = "system" if message.role == "developer" else message.role
    made: dict[str, Any] = {"role": role, "content": message.text}
    if message.name is not None:
        made["name"] = message.name
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    return made


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

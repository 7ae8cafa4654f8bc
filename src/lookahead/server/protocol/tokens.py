"""The bodies of `/tokenize`, `/detokenize` and `/v1/chat/completions/input_tokens`, as vLLM has them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from lookahead.server.protocol.chat import MAX_MESSAGES, MAX_TOOLS, Message, Tool
from lookahead.server.protocol.common import Body, TokenId


class TokenizeBody(Body):
    """A text, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, Field(min_length=1, max_length=MAX_MESSAGES)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=MAX_TOOLS)] = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            message = "give either prompt or messages"
            raise ValueError(message)
        return self


class DetokenizeBody(Body):
    """Tokens."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]

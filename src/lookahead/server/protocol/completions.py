"""The body of `/v1/completions`."""

from typing import Annotated, ClassVar

from pydantic import Field

from lookahead.server.protocol.chat import Prediction
from lookahead.server.protocol.common import UNSERVED, ManyAnswersBody, TokenId, TopLogprobs

MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class CompletionBody(ManyAnswersBody):
    """The body of a text completion."""

    unserved: ClassVar[dict[str, str]] = {
        **UNSERVED,
        "suffix": "the model writes from left to right",
        "best_of": "use n",
        "prompt_logprobs": "use echo and logprobs",
        "prompt_embeds": "prompts are text or tokens",
    }

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    echo: bool | None = None
    logprobs: TopLogprobs = None
    prediction: Prediction | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one by one."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [given]
        return list(given)

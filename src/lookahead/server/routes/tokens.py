"""`/tokenize`, `/detokenize` and `/v1/chat/completions/input_tokens`."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from lookahead.server.answers.prompts import chat_prompt, chat_prompt_of, check_tokens
from lookahead.server.protocol.chat import ChatBody
from lookahead.server.protocol.tokens import DetokenizeBody, TokenizeBody
from lookahead.server.state import access_of, state_of

router = APIRouter(dependencies=[Depends(access_of)])


@router.post("/tokenize")
def tokenize(body: TokenizeBody, request: HttpRequest) -> dict[str, Any]:
    """Return the tokens of a text or of a chat."""
    state = state_of(request)
    state.check_model(body.model)
    tokenizer = state.model.tokenizer
    if body.messages is not None:
        tokens = chat_prompt(
            state.model,
            body.messages,
            tools=body.tools or (),
            add_generation_prompt=body.add_generation_prompt,
        )
    else:
        tokens = tokenizer(body.prompt, add_special_tokens=body.add_special_tokens)["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(tokens) if body.return_token_strs else None
    return {
        "count": len(tokens),
        "max_model_len": state.model.context,
        "tokens": tokens,
        "token_strs": texts,
    }


@router.post("/detokenize")
def detokenize(body: DetokenizeBody, request: HttpRequest) -> dict[str, Any]:
    """Return the text of tokens."""
    state = state_of(request)
    state.check_model(body.model)
    check_tokens(state.model, body.tokens, "tokens")
    return {"prompt": state.model.tokenizer.decode(body.tokens)}


@router.post("/v1/chat/completions/input_tokens")
def input_tokens(body: ChatBody, request: HttpRequest) -> dict[str, Any]:
    """Return how many tokens the prompt of a chat has."""
    state = state_of(request)
    state.check_body(body)
    tokens = len(chat_prompt_of(state.model, body))
    return {"object": "response.input_tokens", "input_tokens": tokens}

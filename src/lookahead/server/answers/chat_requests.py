"""The engine's requests for a chat completion."""

from lookahead.engine.request import Processor, Request
from lookahead.server.access import Access
from lookahead.server.answers.grammars import Grammars, arguments_schema
from lookahead.server.answers.prompts import chat_prompt_of
from lookahead.server.answers.requests import Wanted, requests_of_choices
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.chat import ChatBody, NamedTool, Prediction
from lookahead.server.state import ServerState


def chat_requests(state: ServerState, body: ChatBody, access: Access) -> list[Request]:
    """Return the engine's requests, one for each choice. This takes time: call it in a thread.

    Raises:
        ApiError: Something is not allowed.
    """
    scope = access.scope_of(body)
    prompt, predicted = chat_prompt_of(state.model, body), prediction_tokens(state, body.prediction)

    def wanted() -> Wanted:
        return Wanted(
            prompt_ids=prompt,
            prompt_param="messages",
            max_tokens=body.max_answer_tokens,
            scope=scope,
            logprobs=body.logprobs_wanted,
            processors=_grammar(state.grammars, body),
            prediction_ids=predicted,
        )

    return requests_of_choices(state.model, body, wanted, uses_defaults=state.settings.uses_model_defaults)


def prediction_tokens(state: ServerState, prediction: Prediction | None) -> list[int]:
    """Return the tokens of a predicted answer; none if there is no prediction."""
    if prediction is None:
        return []
    tokens: list[int] = state.model.tokenizer(prediction.text, add_special_tokens=False)["input_ids"]
    return tokens


def _grammar(grammars: Grammars, body: ChatBody) -> list[Processor]:
    """Return the processor of a body's grammar, if it asks for one."""
    form = grammars.of(body.response_format, body.structured_outputs)
    tools = body.tools or []
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        (tool,) = [tool for tool in tools if tool.function.name == name]
        forced = grammars.json_schema(arguments_schema(tool))
    elif body.tool_choice == "required":
        forced = grammars.tool_calls(tools, is_list=body.parallel_tool_calls is not False)
    else:
        return [] if form is None else [form]
    if form is not None:
        message = "tool_choice and response_format both say what form the answer has; give one"
        raise ApiError(400, message, param="tool_choice")
    return [forced]

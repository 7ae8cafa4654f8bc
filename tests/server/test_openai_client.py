"""OpenAI's own client: every endpoint, its types and its errors."""

import json

import httpx
import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

pytestmark = pytest.mark.model

HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
FLAT_WEATHER = {"type": "function", "strict": None, **WEATHER["function"]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
MALFORMED_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}
STRICT = {"strict": True}


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0)


def chat(client, messages=HELLO, **options):
    options = {"temperature": 0, "max_tokens": 8} | options
    return client.chat.completions.create(model="embedded", messages=messages, **options)


def post(live, path, body, **headers):
    return httpx.post(f"{live.url}{path}", json=body, headers=headers, timeout=60)


def test_every_answer_is_of_openais_types(live):
    """Strictly: no value is coerced, none that is needed is missing."""
    bodies = {
        "messages": HELLO,
        "max_tokens": 4,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "temperature": 0,
    }
    whole = post(live, "/v1/chat/completions", bodies)
    ChatCompletion.model_validate_json(whole.text, **STRICT)
    text = {"prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2}
    Completion.model_validate_json(post(live, "/v1/completions", text).text, **STRICT)
    (model,) = httpx.get(f"{live.url}/v1/models").json()["data"]
    Model.model_validate(model, **STRICT)
    Model.model_validate_json(httpx.get(f"{live.url}/v1/models/embedded").text, **STRICT)
    for body in ({"input": "Hi"}, {"input": "Hi", "tools": [FLAT_WEATHER], "tool_choice": "required"}):
        response = post(live, "/v1/responses", {"max_output_tokens": 40, **body})
        Response.model_validate_json(response.text, **STRICT)


def test_every_chunk_is_of_openais_types(live):
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    body = {"messages": HELLO, "max_tokens": 4, "logprobs": True, "lookahead": {"sources": True}, **options}
    lines = post(live, "/v1/chat/completions", body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [line.removeprefix("data: ") for line in lines[:-2]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk, **STRICT)
    last = json.loads(chunks[-1])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    told = [json.loads(chunk)["lookahead"] for chunk in chunks[1:-1]]
    assert {one["source"] for one in told} <= {"prompt", "memory", "guess", "plain"}
    assert [one["forward"] for one in told] == sorted(one["forward"] for one in told)
    assert set(told[-1]["seconds"]) == {"queued", "prompt", "decode", "draft", "model", "choose"}
    text = post(live, "/v1/completions", {"prompt": "a", "max_tokens": 3, "stream": True, "logprobs": 1}).text
    for line in text.split("\n\n")[:-2]:
        chunk = json.loads(line.removeprefix("data: "))
        # the type knows no null, which the API itself sends until the end
        chunk["choices"][0]["finish_reason"] = chunk["choices"][0]["finish_reason"] or "stop"
        Completion.model_validate(chunk, **STRICT)


def test_a_response_comes_in_events(client):
    events = list(
        client.responses.create(
            model="embedded", input="Say hello.", max_output_tokens=6, stream=True, temperature=0
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type, events[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.incomplete",
    ]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    whole = client.responses.create(model="embedded", input="Say hello.", max_output_tokens=6, temperature=0)
    assert deltas == events[-1].response.output_text == whole.output_text != ""
    assert whole.usage.output_tokens == 6
    assert whole.incomplete_details.reason == "max_output_tokens"
    talk = [
        {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]
    assert client.responses.create(model="embedded", input=talk, max_output_tokens=4).status == "incomplete"


def test_text_of_whole_characters_is_streamed(client):
    chunks = chat(
        client, [{"role": "user", "content": "Repeat exactly: 🙂🙂 漢字 🙂"}], max_tokens=24, stream=True
    )
    text = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert all("�" not in piece for piece in text)


@pytest.mark.parametrize("seed", range(2))
def test_json_is_valid(client, seed):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = chat(client, response_format=form, max_tokens=120, temperature=1.0, seed=seed)
    assert answer.choices[0].finish_reason == "stop"
    person = json.loads(answer.choices[0].message.content)
    assert set(person) == {"name", "age"}
    assert len(person["name"]) <= 10
    one = chat(client, extra_body={"structured_outputs": {"choice": ["red", "green"]}}, max_tokens=20)
    assert one.choices[0].message.content in {"red", "green"}
    number = chat(client, extra_body={"structured_outputs": {"regex": "[0-9]{3}"}}, max_tokens=20)
    assert number.choices[0].message.content.isdigit()


def test_tools_are_called(client):
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice, reason in [(named, "stop"), ("required", "tool_calls")]:
        options = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 120, "parallel_tool_calls": False}
        whole = chat(client, question, **options).choices[0]
        (call,) = whole.message.tool_calls
        assert (call.function.name, whole.finish_reason) == ("get_weather", reason)
        assert set(json.loads(call.function.arguments)) == {"city"}
        arguments, names, ids = "", [], set()
        for chunk in chat(client, question, **options, stream=True):
            for part in chunk.choices[0].delta.tool_calls or []:
                arguments += part.function.arguments or ""
                names += [part.function.name] if part.function.name else []
                ids |= {part.id} if part.id else set()
        assert (json.loads(arguments), names) == (json.loads(call.function.arguments), ["get_weather"])
        assert len(ids) == 1
    turn = [
        *question,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    assert chat(client, turn, tools=[WEATHER]).choices[0].message.content
    assert chat(client, question, tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls is None


def test_predictions_are_drafted_and_the_prompt_is_cached(client):
    asked = [{"role": "user", "content": "Repeat: one two three four five six seven eight nine ten. " * 4}]
    plain = chat(client, asked, max_tokens=24)
    predicted = {"type": "content", "content": plain.choices[0].message.content}
    again = chat(client, asked, max_tokens=24, prediction=predicted)
    assert again.choices[0].message.content == plain.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens >= 64
    details = again.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 0
    assert details.rejected_prediction_tokens >= 0


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"max_tokens": 100_000}, "context_length_exceeded", None),
        ({"max_tokens": 0}, None, "max_tokens"),
        ({"temperature": -1}, None, "temperature"),
        ({"top_p": 0}, None, "top_p"),
        ({"n": 1000}, None, "n"),
        ({"logit_bias": {"x": 1}}, None, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, None, "logit_bias"),
        ({"top_logprobs": 3}, None, None),
        ({"response_format": {"type": "json_schema"}}, None, "response_format"),
        ({"response_format": MALFORMED_SCHEMA}, "invalid_grammar", None),
        ({"tool_choice": "required"}, None, None),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"modalities": ["audio"]}, "unsupported_parameter", "modalities"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"extra_body": {"chat_template": "x"}}, "unsupported_parameter", "chat_template"),
        ({"extra_body": {"lookahead": {"namespace": "a\n"}}}, None, "lookahead.namespace"),
        ({"extra_body": {"stop_token_ids": [99_999_999]}}, None, "stop_token_ids"),
        ({"stop": "x" * 3, "extra_body": {"structured_outputs": {}}}, None, "structured_outputs"),
    ],
)
def test_what_is_not_allowed_is_a_bad_request_that_names_it(client, options, code, param):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **options)
    assert refused.value.body["type"] == "invalid_request_error"
    assert code is None or refused.value.code == code
    assert param is None or (refused.value.param or "").startswith(param)
    assert refused.value.response.headers["x-request-id"]


def test_other_models_endpoints_and_methods_do_not_exist(live, client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):  # after the body's shape
        client.chat.completions.create(model="gpt-5", messages=[])
    assert post(live, "/v1/nothing", {}).status_code == 404
    assert httpx.get(f"{live.url}/v1/chat/completions").status_code == 405


def test_unknown_fields_are_ignored_and_harmless_ones_taken(client, caplog):
    with caplog.at_level("INFO", logger="lookahead.server"):
        answer = chat(
            client, extra_body={"something_new": 1, "user": "u", "metadata": {"a": "b"}, "store": False}
        )
    assert answer.choices[0].message.content
    assert [record.message for record in caplog.records if "something_new" in record.message]
    assert not any("Say hello" in record.getMessage() for record in caplog.records)


def test_tokens_and_their_texts(live):
    tokens = post(live, "/tokenize", {"prompt": "Hello 🙂"}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert post(live, "/detokenize", {"tokens": tokens["tokens"]}).json() == {"prompt": "Hello 🙂"}
    prompt = post(live, "/tokenize", {"messages": HELLO}).json()["count"]
    counted = post(live, "/v1/chat/completions/input_tokens", {"messages": HELLO}).json()
    assert counted["input_tokens"] == prompt
    assert set(httpx.get(f"{live.url}/version").json()) == {"version"}
    assert post(live, "/detokenize", {"tokens": [10**9]}).status_code == 400


def test_a_request_id_comes_back(live):
    given = post(live, "/v1/completions", {"prompt": "a", "max_tokens": 1}, **{"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = post(live, "/v1/completions", {"prompt": "a", "max_tokens": 1}, **{"x-request-id": "not\tfine"})
    assert len(made.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lookahead": {"namespce": "a"}}, "lookahead.namespce"),
        ({"lookahead": {"sources": True}}, "lookahead.sources"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"best_of": 2}, "best_of"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
    ],
)
def test_typing_errors_and_former_names_are_named(live, fields, named):
    refused = post(live, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 2} | fields)
    assert refused.status_code == 400
    assert named in refused.json()["error"]["message"]


def test_fields_that_ask_for_what_is_served_are_taken(live):
    fields = {
        "modalities": ["text"],
        "best_of": 1,
        "verbosity": "medium",
        "length_penalty": 1.0,
        "audio": None,
    }
    answer = post(live, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 2} | fields)
    assert answer.status_code == 200
    scored = post(
        live, "/v1/completions", {"prompt": "a b", "max_tokens": 0, "echo": True, "logprobs": 0}
    ).json()
    assert scored["usage"]["completion_tokens"] == 0
    missing = httpx.post(f"{live.url}/v1/completions", content=b'{"prompt": "a"}')
    assert "Content-Type" in missing.json()["error"]["message"]
    assert httpx.head(f"{live.url}/health").status_code == 200


def test_the_schema_of_all_bodies_is_served(live):
    schema = httpx.get(f"{live.url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/health"} <= set(schema["paths"])
    assert {"messages", "lookahead", "tools"} <= set(
        schema["components"]["schemas"]["ChatBody"]["properties"]
    )

"""Let the model call a function, run it, and let the model answer: tools of `lookahead serve`."""

import argparse
import json
import os

from openai import OpenAI


def weather(city: str) -> str:
    """Return the weather in a city."""
    return {"Oslo": "2 degrees, snow", "Paris": "14 degrees, rain"}.get(city, "not known")


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
parser.add_argument("--model", default="embedded")
arguments = parser.parse_args()
key = os.environ.get("LOOKAHEAD_API_KEY", "none")

messages = [{"role": "user", "content": "What is the weather in Paris?"}]
with OpenAI(base_url=arguments.base_url, api_key=key) as client:
    # "required": a grammar lets the model write nothing but calls, so even a small one makes a valid call.
    asked = client.chat.completions.create(
        model=arguments.model,
        messages=messages,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=64,
    )
    call = asked.choices[0].message.tool_calls[0]
    given = json.loads(call.function.arguments)
    print(f"the model calls {call.function.name} with {given}")

    result = weather(**given)
    print(f"the function returns {result!r}")

    messages.append(asked.choices[0].message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.chat.completions.create(
        model=arguments.model, messages=messages, tools=[TOOL], temperature=0, max_tokens=24
    )
    print("the model answers:", answer.choices[0].message.content)

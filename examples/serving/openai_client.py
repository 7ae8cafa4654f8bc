"""Ask `lookahead serve` with OpenAI's client: an answer, a stream with its usage, a predicted answer."""

import argparse
import os

from openai import OpenAI

NOTICE = "The library is open from nine to five on Monday, Tuesday and Thursday. It is closed on Friday."

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
parser.add_argument("--model", default="embedded")
arguments = parser.parse_args()
key = os.environ.get("LOOKAHEAD_API_KEY", "none")

with OpenAI(base_url=arguments.base_url, api_key=key) as client:
    answer = client.chat.completions.create(
        model=arguments.model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=16,
    )
    print("chat:", answer.choices[0].message.content)

    print("stream:", end=" ")
    stream = client.chat.completions.create(
        model=arguments.model,
        messages=[{"role": "user", "content": "How many legs does a cat have?"}],
        temperature=0,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage is not None:
            print(f" ({chunk.usage.completion_tokens} tokens)")

    # The server drafts from the prediction. A wrong one costs some time and changes no token of the answer.
    answer = client.chat.completions.create(
        model=arguments.model,
        messages=[{"role": "user", "content": f"Repeat this word for word: {NOTICE}"}],
        temperature=0,
        max_tokens=32,
        prediction={"type": "content", "content": NOTICE},
    )
    print("predicted:", answer.choices[0].message.content)
    usage = answer.usage
    if usage is not None and usage.completion_tokens_details is not None:
        accepted = usage.completion_tokens_details.accepted_prediction_tokens
        print(f"{accepted} of {usage.completion_tokens} tokens were drafted and accepted")

"""Ask `lookahead serve` with LangChain's `ChatOpenAI`: one answer, and one in pieces."""

import argparse
import os

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
parser.add_argument("--model", default="embedded")
arguments = parser.parse_args()

chat = ChatOpenAI(
    base_url=arguments.base_url,
    model=arguments.model,
    api_key=SecretStr(os.environ.get("LOOKAHEAD_API_KEY", "none")),
    temperature=0,
    max_completion_tokens=16,
    extra_body={"lookahead": {"namespace": "langchain"}},
)

message = chat.invoke("How many legs does a cat have?")
print("invoke:", message.content)
print(message.usage_metadata)

print("stream:", end=" ")
for piece in chat.stream(
    [("system", "You are a helpful assistant."), ("user", "What is the opposite of hot?")]
):
    print(piece.content, end="", flush=True)
print()

"""Read a message into a pydantic model: the server lets the model write only what the schema allows."""

import argparse
import os
from typing import Annotated, Literal

from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

MESSAGE = "Hello, this is Anna. The printer on the second floor is out of paper again, and I need it today."


class Ticket(BaseModel):
    """A request for help. Strings are bounded: without a bound a small model may never end one."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=20)]
    device: Annotated[str, Field(max_length=20)]
    urgency: Literal["low", "high"]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
parser.add_argument("--model", default="embedded")
arguments = parser.parse_args()
key = os.environ.get("LOOKAHEAD_API_KEY", "none")

with OpenAI(base_url=arguments.base_url, api_key=key) as client:
    answer = client.chat.completions.create(
        model=arguments.model,
        messages=[{"role": "user", "content": f"Write this message as a ticket in JSON: {MESSAGE}"}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "ticket", "schema": Ticket.model_json_schema(), "strict": True},
        },
        temperature=0,
        max_tokens=96,
    )

ticket = Ticket.model_validate_json(answer.choices[0].message.content or "")
print(f"name: {ticket.name}\ndevice: {ticket.device}\nurgency: {ticket.urgency}")

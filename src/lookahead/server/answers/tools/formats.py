"""How a model writes calls of tools: as its chat template says, else as we tell it to."""

import json
from enum import StrEnum
from typing import Any

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
_RESPONSE = "<tool_response>\n{}\n</tool_response>"
_INSTRUCTIONS = """You may call functions to answer the user. Their signatures:
<tools>
{}
</tools>
To call one, write a JSON object with its name and arguments within tags:
<tool_call>
{{"name": "function", "arguments": {{"parameter": "value"}}}}
</tool_call>"""


class ToolFormat(StrEnum):
    """How calls are written."""

    TAGGED = "tagged"
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, as Hermes, Qwen and many others."""
    JSON = "json"
    """The whole answer is `{"name": …, "parameters": …}`, as Llama 3."""
    OURS = "ours"
    """The template knows no tools: a system message explains the tagged form."""


def tool_format(tokenizer: Any) -> ToolFormat:
    """Return how a model with this tokenizer writes calls."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    if "tools" not in text:
        return ToolFormat.OURS
    return ToolFormat.TAGGED if CALL_BEGIN in text else ToolFormat.JSON


def without_tool_messages(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return messages in which a template without tools finds only text."""
    made = []
    for message in messages:
        text = message["content"]
        for call in message.get("tool_calls", ()):
            content = json.dumps(call["function"], ensure_ascii=False)
            text += f"\n{CALL_BEGIN}\n{content}\n{CALL_END}"
        role = message["role"]
        if role == "tool":
            role, text = "user", _RESPONSE.format(text)
        made.append({"role": role, "content": text.lstrip("\n")})
    if tools:
        signatures = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        instructions = _INSTRUCTIONS.format(signatures)
        if made and made[0]["role"] == "system":
            made[0]["content"] += "\n\n" + instructions
        else:
            made.insert(0, {"role": "system", "content": instructions})
    return made

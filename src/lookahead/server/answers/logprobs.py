"""Log-probabilities as clients read them: tokens as text and as bytes."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from lookahead.engine.events import TokenLogprobs

_REPLACEMENT = "�"
_MIN_LOGPROB = -9999.0
"""What JSON has instead of minus infinity, as vLLM."""


def chat_logprobs(tokenizer: Any, logprobs: Iterable[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return the entries of a chat completion's `logprobs.content`."""
    return [
        {
            **_entry(tokenizer, one.token, one.logprob),
            "top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in one.top],
        }
        for one in logprobs
    ]


def completion_logprobs(
    tokenizer: Any, logprobs: Sequence[TokenLogprobs | None], tokens: Sequence[int], offset: int
) -> dict[str, Any]:
    """Return a text completion's `logprobs`.

    Args:
        tokenizer: The model's.
        logprobs: For each token; None for the first of a prompt.
        tokens: The tokens.
        offset: Where their text begins.
    """
    texts = [token_text(tokenizer, token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if one is None else _finite(one.logprob) for one in logprobs],
        "top_logprobs": [
            None
            if one is None
            else {
                token_text(tokenizer, token): _finite(logprob)
                for token, logprob in (*one.top[::-1], (one.token, one.logprob))
            }
            for one in logprobs
        ],
        "text_offset": offsets,
    }


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of one token; its bytes in hexadecimal, after `bytes:`, where it is no text."""
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    if _REPLACEMENT not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes(tokenizer, token))


def token_bytes(tokenizer: Any, token: int) -> list[int]:
    """Return the bytes of one token."""
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    if _REPLACEMENT not in text:
        return list(text.encode())
    name: str = tokenizer.convert_ids_to_tokens(token)
    if len(name) == len("<0x00>") and name.startswith("<0x"):  # byte fallback
        return [int(name[3:5], 16)]
    bytes_of = _bytes_by_character()
    if all(character in bytes_of for character in name):
        return [bytes_of[character] for character in name]
    return list(text.encode())


@cache
def _bytes_by_character() -> dict[str, int]:
    """Return the bytes that byte-level BPE writes as other characters, as GPT-2 does."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table, beyond = {}, 0x100
    for byte in range(0x100):
        if byte in printable:
            table[chr(byte)] = byte
        else:
            table[chr(beyond)] = byte
            beyond += 1
    return table


def _entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_text(tokenizer, token),
        "logprob": _finite(logprob),
        "bytes": token_bytes(tokenizer, token),
    }


def _finite(logprob: float) -> float:
    return max(logprob, _MIN_LOGPROB)

"""What a draft memory asks of a tokenizer: tokens for texts, a fingerprint of what its ids stand for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What a memory asks of a tokenizer of transformers, or of another one."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list of token ids for each text."""


def tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each text, without special tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [list(token_ids) for token_ids in encoded["input_ids"]]


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256, in hexadecimal, of what token ids stand for: the vocabulary and which are special.

    Which of them serves as padding or end does not matter: that is set by callers as they like.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = sorted(token_id for token_id, token in added.items() if getattr(token, "special", False))
    return hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()

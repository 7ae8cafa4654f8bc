"""Token ids of texts, and a fingerprint of a tokenizer's vocabulary."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of a tokenizer that a memory uses; those of transformers have it."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list of token ids for each text."""


def tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each text, without special tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [list(token_ids) for token_ids in encoded["input_ids"]]


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256, in hexadecimal, of the vocabulary and of which tokens are special.

    Which token is used for padding or as the end does not matter: callers set that as they like.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = sorted(token_id for token_id, token in added.items() if getattr(token, "special", False))
    return hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()

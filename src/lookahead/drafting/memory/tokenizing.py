"""Token ids of texts, and what a tokenizer's vocabulary is: its size and a fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.store import TokenIds, checked_tokens
from lookahead.errors import ConfigError

_BATCH = 256


class Tokenizer(Protocol):
    """The part of a tokenizer that a memory uses; those of transformers have it."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list of token ids for each text."""


def token_id_batches(
    given: Iterable[str | TokenIds], tokenizer: Tokenizer | None
) -> Iterator[list[Int32Array]]:
    """Yield the token ids of each text or list, in order and in batches; texts are tokenized.

    Raises:
        ConfigError: A text without a tokenizer.
        TokenIdError: A token id is negative, not an integer, or exceeds 31 bits.
    """
    left = iter(given)
    while batch := list(islice(left, _BATCH)):
        texts = [item for item in batch if isinstance(item, str)]
        if texts and tokenizer is None:
            message = "texts need the model's tokenizer: pass tokenizer=…, or give token ids"
            raise ConfigError(message)
        of_texts = iter(tokenized(texts, tokenizer) if tokenizer is not None and texts else ())
        yield [checked_tokens(next(of_texts) if isinstance(item, str) else item) for item in batch]


def tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each text, without special tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [list(token_ids) for token_ids in encoded["input_ids"]]


def size_of(tokenizer: Tokenizer) -> int:
    """Return the size of the vocabulary: the largest token id plus 1."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256, in hexadecimal, of the vocabulary and of which tokens are special.

    Which token is used for padding or as the end does not matter: callers set that as they like.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = sorted(token_id for token_id, token in added.items() if getattr(token, "special", False))
    return hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()

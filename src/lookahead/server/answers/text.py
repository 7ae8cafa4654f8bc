"""`TextStream`: the text of tokens as they come, never half a character and never half a stop string."""

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "�"
"""What bytes that are no whole character decode to."""
_MAX_HELD_TOKENS = 16
"""Bytes of so many tokens that are still no character never become one."""
_MIN_WINDOW = 6
"""Tokens that are decoded again before new ones: some tokenizers write a space depending on those before."""


class TextStream:
    """Decodes an answer token by token.

    The pieces together are the text that the tokenizer decodes from all tokens at once, cut at the first stop
    string.

    Args:
        tokenizer: A tokenizer of transformers.
        stop: Stop strings.
        keeps_stop: Whether the stop string is part of the text.
        skips_special: Whether special tokens have no text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        stop: Sequence[str] = (),
        keeps_stop: bool = False,
        skips_special: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._keeps_stop = keeps_stop
        self._skips_special = skips_special
        self._tokens: list[int] = []
        self._window = self._decoded = (
            0  # tokens from `_window` on are decoded again; those before `_decoded` are known
        )
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self._sent = 0
        self._is_ended = False

    def push(self, tokens: Sequence[int], *, ends: bool = False) -> str:
        """Add tokens; return the text that is certain now.

        Args:
            tokens: The next ones.
            ends: Whether the last of them ended the answer. It has no text then, unless stops are kept.
        """
        pieces = []
        for token in tokens[:-1] if ends and not self._keeps_stop else tokens:
            self._tokens.append(token)
            pieces.append(self._decode_next())
        self._held += "".join(pieces)
        return self._release(self._safe_length())

    def end(self, stop: int | str | None) -> str:
        """Return the rest of the text.

        Args:
            stop: What ended the answer: a stop string is cut, with all that follows it.
        """
        whole = self._text(self._tokens)
        before = self._sent
        self._held = whole[before:] if len(whole) >= before else ""
        cut = self._first_stop(whole) if isinstance(stop, str) else None
        return self._release(len(self._held) if cut is None else max(0, cut - before))

    def _decode_next(self) -> str:
        """Return the text that the last token adds; nothing while it ends within a character."""
        known = self._text(self._tokens[self._window : self._decoded])
        text = self._text(self._tokens[self._window :])
        pending = len(self._tokens) - self._decoded
        if len(text) <= len(known) or (text.endswith(_REPLACEMENT) and pending < _MAX_HELD_TOKENS):
            return ""
        if len(self._tokens) - self._window > 2 * _MIN_WINDOW:
            self._window = max(self._window, self._decoded - _MIN_WINDOW)
        self._decoded = len(self._tokens)
        return text[len(known) :]

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=self._skips_special)
        return text

    def _safe_length(self) -> int:
        """Return how much of the held text is before any stop string, or what may become one."""
        held = self._held
        places = [at for text in self._stop if (at := held.find(text)) >= 0]
        longest = max((len(text) for text in self._stop), default=1)
        for begin in range(max(0, len(held) - longest + 1), len(held)):
            if any(text.startswith(held[begin:]) for text in self._stop):
                places.append(begin)
                break
        return min(places, default=len(held))

    def _first_stop(self, whole: str) -> int | None:
        """Return where the text ends because of a stop string; None if it has none."""
        found = [(whole.find(text), text) for text in self._stop]
        places = [at + (len(text) if self._keeps_stop else 0) for at, text in found if at >= 0]
        return min(places, default=None)

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self._sent += len(text)
        return text

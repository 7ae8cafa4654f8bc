"""The noise of a torch generator's coming draws on the CPU, read without touching the generator."""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from lookahead.drafting.noise import (
    LUCKY_TOKENS,
    WORDS,
    Noise,
    UInt32Array,
    find_lucky,
    write_noise,
    write_words,
)

LEVELS = 3
"""How many draws ahead are known: further ones are rarely reached."""
_MAX_MISSES = 16
"""After this many surprises in a row, other code draws from the generator: it is no longer followed."""
_LEFT, _NEXT, _STATE = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * WORDS)
"""Bytes of torch's state: words left until the next twist, the next word's place, and the words."""


class NoiseAhead:
    """Follows a generator that draws noise of one shape [rows, V], token after token, as `multinomial` does.

    A copy of the generator's state runs ahead by `LEVELS` draws. At each look, the generator is found at one
    of the states that the copy went through: so many draws have been made since. Where it is found elsewhere,
    because other code seeded it or drew from it, the copy begins anew from there. So a wrong guess costs
    acceptance, never the text.

        draws       3         4         5         6          the generator is found at 5: draws 3 and 4 were
        copy        state 3   state 4   state 5   state 6    made, 5 to 7 are to be known, 7 is added

    Args:
        generator: The generator.
        rows: Rows of a draw.
        vocabulary_size: Numbers of a row.
        slots: How many draws are held, those that were made before included.
    """

    def __init__(
        self, generator: torch.Generator, *, rows: int, vocabulary_size: int, slots: int = LEVELS
    ) -> None:
        self._generator = generator
        self._words = np.empty((rows, slots, 2 * vocabulary_size), np.uint32)
        self._lucky = np.empty((rows, slots, LUCKY_TOKENS), np.int32)
        self._states = np.empty((LEVELS + 1, WORDS), np.uint32)  # at the beginning of each draw to come
        self._places = [0] * (LEVELS + 1)
        self._slots = slots
        self._oldest = self._next = self._known = 0  # numbers of draws; the first two are held up to the last
        self._misses = 0

    def of_row(self, row: int, *, drawn_before: int = 0) -> Noise | None:
        """Return the noise of a row's coming draws; None if it is not known.

        Args:
            row: The row.
            drawn_before: How many of the last draws were made for other rows, and wait for this one.
        """
        if self._misses >= _MAX_MISSES or not is_noise_known():
            return None
        self._follow()
        first = self._next - drawn_before
        if first < self._oldest:
            return None
        count = min(LEVELS, self._known - first)
        return Noise(self._words[row], self._lucky[row], first % self._slots, count)

    def _follow(self) -> None:
        """Find out how many draws were made since the last look, and draw as many ahead."""
        words, place = state_of(self._generator)
        for draw in range(self._next, self._known + 1):
            slot = draw % len(self._places)
            if self._places[slot] == place and np.array_equal(self._states[slot], words):
                self._next, self._misses = draw, 0
                break
        else:
            self._misses += 1
            self._oldest = self._known = self._next = self._known + 1
            slot = self._next % len(self._places)
            self._states[slot], self._places[slot] = words, place
        while self._known < self._next + LEVELS:
            self._draw()
        self._oldest = max(self._oldest, self._known - self._slots)

    def _draw(self) -> None:
        """Let the copy make one more draw."""
        before, after = self._known % len(self._places), (self._known + 1) % len(self._places)
        slot, place, state = self._known % self._slots, self._places[before], self._states[after]
        state[:] = self._states[before]
        for words, lucky in zip(self._words, self._lucky, strict=True):
            place = write_words(state, place, words[slot])
            find_lucky(words[slot], lucky[slot])
        self._places[after] = place
        self._known += 1


def state_of(generator: torch.Generator) -> tuple[UInt32Array, int]:
    """Return the words of a CPU generator's state, uint32 [WORDS], and the place of the next one."""
    state: npt.NDArray[np.uint8] = generator.get_state().numpy()
    words = state[_STATE].view(np.uint64).astype(np.uint32)
    is_used_up = state[_LEFT].view(np.int32)[0] == 1
    return words, WORDS if is_used_up else int(state[_NEXT].view(np.uint64)[0])


@cache
def is_noise_known() -> bool:
    """Return whether torch draws its noise as it is computed here; tried once in each process.

    Releases of torch differ, and some draw from another generator's library.
    """
    generator, size = torch.Generator().manual_seed(11), 1000
    torch.empty(7).exponential_(generator=generator)  # not at the beginning of the state
    state, place = state_of(generator)
    expected, words = np.empty((2, size), np.float32), np.empty(2 * size, np.uint32)
    for draw in range(2):
        place = write_words(state, place, words)
        write_noise(words, expected[draw])
    weights = torch.linspace(1.0, 2.0, size)[None]
    chosen = torch.multinomial(weights / weights.sum(), 1, generator=generator)
    drawn = torch.empty(1, size).exponential_(1, generator=generator)
    is_chosen = int(chosen) == int((weights / weights.sum() / torch.from_numpy(expected[:1])).argmax())
    return is_chosen and np.array_equal(drawn[0].numpy(), expected[1])

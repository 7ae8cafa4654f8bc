"""Every error Lookahead raises on purpose: each says what was given, what is allowed and what to do."""


class LookaheadError(Exception):
    """Base of all of Lookahead's errors."""


class ConfigError(LookaheadError, ValueError):
    """A setting has a value that is not allowed."""


class UnsupportedModelError(LookaheadError, ValueError):
    """This model cannot be decoded with Lookahead (encoder-decoder, no usable cache, …)."""


class UnsupportedGenerationError(LookaheadError, ValueError):
    """The call asks `generate` for something Lookahead cannot do (beams, no cache, …)."""


class PromptTooLongError(LookaheadError, ValueError):
    """The prompt does not fit the model's context."""


class VocabularyMismatchError(LookaheadError, ValueError):
    """A draft memory learned from one vocabulary was given to a model with another."""


class UnsupportedMemoryError(LookaheadError, ValueError):
    """The draft memory's structure cannot do what was asked of it (a trie has one namespace, …)."""


class MemoryFileError(LookaheadError, ValueError):
    """A memory file is missing, damaged, of another tokenizer, or cannot be written."""


class DataFormatError(LookaheadError, ValueError):
    """An input file is malformed; the message names the file and the line."""


class MissingDependencyError(LookaheadError, ImportError):
    """Something optional is not installed; the message says how to install it."""


class NotFoundError(LookaheadError, FileNotFoundError):
    """A file, folder or model that was named is not there or cannot be reached."""

"""The errors that Lookahead raises: each message says what was given, what is allowed and what to do."""


class LookaheadError(Exception):
    """Base class of all errors of Lookahead."""


class ConfigError(LookaheadError, ValueError):
    """A setting has a value that is not allowed."""


class UnsupportedModelError(LookaheadError, ValueError):
    """Lookahead cannot decode this model (encoder-decoder, no usable cache, …)."""


class UnsupportedGenerationError(LookaheadError, ValueError):
    """The call asks `generate` for something that Lookahead cannot do (beams, no cache, …)."""


class PromptTooLongError(LookaheadError, ValueError):
    """The prompt does not fit the model's context."""


class RequestTooLongError(LookaheadError, ValueError):
    """Prompt and answer together are more than an engine can ever hold."""


class QueueFullError(LookaheadError):
    """So many requests wait that an engine takes no more; it may later."""


class EngineClosedError(LookaheadError):
    """The engine takes no more requests: it is draining, or closed."""


class VocabularyMismatchError(LookaheadError, ValueError):
    """The draft memory holds tokens of another vocabulary than the model's."""


class UnsupportedMemoryError(LookaheadError, ValueError):
    """The draft memory's store does not support the operation (a trie has one namespace, …)."""


class MemoryFileError(LookaheadError, ValueError):
    """A memory file is missing, damaged, made for another tokenizer, or cannot be written."""


class ExchangeError(LookaheadError):
    """What replicas learned cannot be exchanged now; it may be tried again."""


class TokenIdError(LookaheadError, ValueError):
    """A token id is negative, not an integer, or larger than any vocabulary's."""


class DataFormatError(LookaheadError, ValueError):
    """An input file is malformed; the message names the file and the line."""


class MissingDependencyError(LookaheadError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class NotFoundError(LookaheadError, FileNotFoundError):
    """A file, folder or model does not exist or cannot be reached."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

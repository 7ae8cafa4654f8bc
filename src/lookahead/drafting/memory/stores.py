"""The draft stores that a memory may have."""

from lookahead.config import DEFAULT_MEMORY_BYTES, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES
from lookahead.drafting.log.entry_points import compile_log_kernels
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import DraftStore
from lookahead.drafting.trie.token_trie import TokenTrie, compile_trie_kernels
from lookahead.errors import ConfigError


def compile_kernels() -> None:
    """Compile the kernels of both stores."""
    compile_log_kernels()
    compile_trie_kernels()


def made_store(store: object, max_bytes: int | None, *, remember_prompts: bool) -> DraftStore:
    """Return the store that a memory is asked to have.

    Raises:
        ConfigError: A setting is out of range, or the store does not have it.
    """
    if store == "log":
        return TokenLog(max_bytes=_checked_cap(max_bytes), remember_prompts=remember_prompts)
    if store == "trie":
        if remember_prompts:
            message = (
                'remember_prompts=True needs store="log"; a trie forgets prompts when their requests end'
            )
            raise ConfigError(message)
        return TokenTrie(max_bytes=_checked_cap(max_bytes))
    if not isinstance(store, DraftStore):
        message = f'store={store!r} is not allowed; give "log", "trie" or a draft store'
        raise ConfigError(message)
    if max_bytes is not None or remember_prompts:
        message = "max_bytes and remember_prompts are the store's own settings; give them to the store"
        raise ConfigError(message)
    return store


def _checked_cap(max_bytes: int | None) -> int:
    if max_bytes is None:
        return DEFAULT_MEMORY_BYTES
    is_integer = isinstance(max_bytes, int) and not isinstance(max_bytes, bool)
    if not is_integer or not MIN_MEMORY_BYTES <= max_bytes <= MAX_MEMORY_BYTES:
        message = (
            f"max_bytes={max_bytes!r} is not allowed; give an integer from {MIN_MEMORY_BYTES} to "
            f"{MAX_MEMORY_BYTES}"
        )
        raise ConfigError(message)
    return max_bytes

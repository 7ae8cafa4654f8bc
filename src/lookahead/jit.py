"""Compile kernels with numba: once, cached on disk if possible, otherwise in memory in each process."""

import hashlib
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import getfile
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.event import Event, Listener, install_listener
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

logger = logging.getLogger("lookahead")

_OF_A_TEAM: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}
_SLOW_AFTER_S = 1.0
_KERNEL_MARKERS = (b"kernel\n", b"llvmlite", b"IntEnum")
"""A module with one of these has kernels, builds code for them, or has constants that go into it."""


def kernel(function: Kernel) -> Kernel:
    """Compile a pure function over arrays on first call; it releases the GIL while it runs.

    The machine code is cached next to the source or in numba's cache folder. Where neither can be written
    (a read-only container) each process compiles it in memory.
    """
    return _compiled(function, counts_references=True)


def lean_kernel(function: Kernel) -> Kernel:
    """Compile a kernel that allocates nothing; Python may call it only if it returns no array.

    It counts no references to arrays: that would take several times as long as the kernel.
    """
    return _compiled(function, counts_references=False)


def pointer_kernel(function: Kernel) -> Kernel:
    """Compile a kernel that other kernels call with pointers; it counts no references and is not inlined.

    It cannot raise: see `shared_kernel`.
    """
    return _compiled_on_first_call(function, {"nogil": True, **_OF_A_TEAM})


def shared_kernel(function: Kernel) -> Any:
    """Compile a kernel at once that C calls with one address; the kernel's own is in `.address`.

    It and the kernels that it calls run in a team of threads, where an exception reaches no caller and leaves
    the other threads waiting at the next barrier. So nothing in them may raise: no `raise`, no `assert`, no
    array, and a division by zero gives what it gives in C and numpy.
    """
    compiled = CFunc(
        _named_after_digest(function), normalize_signature("void(voidptr)"), {}, dict(_OF_A_TEAM)
    )
    _cache_on_disk(compiled, function)
    compiled.compile()
    return compiled


def _compiled(function: Kernel, *, counts_references: bool) -> Kernel:
    options: dict[str, Any] = {"nogil": True}
    if not counts_references:
        options["_nrt"] = False
        options["forceinline"] = True  # a call passes every field of every array, which costs a third
    return _compiled_on_first_call(function, options)


def _compiled_on_first_call(function: Kernel, options: dict[str, Any]) -> Kernel:
    dispatcher = numba.njit(**options)(_named_after_digest(function))
    _cache_on_disk(dispatcher, function)
    return cast("Kernel", dispatcher)


def _named_after_digest(function: Kernel) -> Kernel:
    """Add a digest of all kernels' sources to a kernel's name, and so to the names of its cache files.

    Cached code contains the code of the kernels it calls, but numba checks only the kernel's own file for
    changes. Without the digest an upgrade would run half of the old version.
    """
    function.__qualname__ += f"-{kernels_digest(Path(getfile(function)).parent)}"
    return function


def _cache_on_disk(compiled: Any, function: Callable[..., Any]) -> None:
    try:
        compiled._cache = _CheckedCache(function)  # noqa: SLF001  # numba has no public way to give it a cache
    except RuntimeError:  # numba found no folder that it may write to
        return


class _CheckedCache(FunctionCache):
    """A kernel's cache on disk, in which a damaged or foreign file counts as absent."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        files = self._cache_file
        self._cache_file = _CheckedFiles(files._cache_path, self._impl.filename_base, files._source_stamp)  # noqa: SLF001

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code of a signature; None if there is none, or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001  # unpickling a foreign file may raise anything
            return None  # compiled now, and the file is replaced

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save compiled code; on a full or read-only disk go on without the cache."""
        try:
            super().save_overload(sig, data)
        except OSError as problem:
            logger.warning("compiled kernels are not kept for the next process: %s", problem)


class _CheckedFiles(IndexDataCacheFile):
    """Cache files with a digest of their content and name, so that no other code is ever run."""

    def _dump(self, obj: object) -> bytes:
        data: bytes = super()._dump(obj)
        return pickle.dumps((self._digest(data), data))

    def _save_data(self, name: str, data: Any) -> None:
        super()._save_data(name, (name, data))

    def _load_data(self, name: str) -> Any:
        saved_as, data = self._checked(Path(self._data_path(name)).read_bytes())
        return data if saved_as == name else None

    def _load_index(self) -> dict[Any, Any]:
        try:
            with Path(self._index_path).open("rb") as file:
                version = pickle.load(file)  # noqa: S301  # the user's own cache folder, as numba reads it
                data = file.read()
            if version != self._version:
                return {}
            stamp, overloads = self._checked(data)
        except Exception:  # noqa: BLE001  # absent, damaged, foreign: as if it were not there
            return {}
        return dict(overloads) if stamp == self._source_stamp else {}

    def _checked(self, data: bytes) -> Any:
        """Return the object that `_dump` was given.

        Raises:
            ValueError: It was not dumped for this kernel. Other damage raises what unpickling raises.
        """
        digest, dumped = pickle.loads(data)  # noqa: S301  # as above
        if self._digest(dumped) != digest:
            message = "a compiled kernel's cache file is damaged or another kernel's"
            raise ValueError(message)
        return pickle.loads(dumped)  # noqa: S301

    def _digest(self, data: bytes) -> bytes:
        return hashlib.sha256(self._index_name.encode() + data).digest()


@cache
def kernels_digest(folder: Path) -> str:
    """Return a digest of numba's version and of all modules that have one of `_KERNEL_MARKERS`.

    With the version in it, two environments may use one folder of sources. Numba alone would throw away what
    the other one has compiled, again and again.

    Args:
        folder: Its modules count as well as those of the package.
    """
    package = Path(__file__).parent
    paths = set(package.rglob("*.py"))
    if not folder.is_relative_to(package):
        paths.update(folder.glob("*.py"))
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(paths):
        source = path.read_bytes()
        if any(marker in source for marker in _KERNEL_MARKERS):
            digest.update(source)
    return digest.hexdigest()[:12]


@contextmanager
def log_if_slow() -> Iterator[None]:
    """Log a warning if the body compiles and takes longer than a second; loading the cache logs nothing."""
    listener = _CompilingListener()
    try:
        with install_listener("numba:run_pass", listener):
            yield
    finally:
        listener.timer.cancel()


class _CompilingListener(Listener):
    """Starts a timer, which logs the warning, at the first pass of the compiler in this thread."""

    def __init__(self) -> None:
        self.timer = threading.Timer(_SLOW_AFTER_S, _log_compiling)
        self.timer.daemon = True
        self._thread = threading.get_ident()
        self._is_started = False

    def on_start(self, _event: Event) -> None:
        if not self._is_started and threading.get_ident() == self._thread:
            self._is_started = True
            self.timer.start()

    def on_end(self, _event: Event) -> None:
        """Do nothing: many short passes are one long compilation."""


def _log_compiling() -> None:
    if can_cache():
        logger.warning("compiling the kernels; this happens once per installation and takes about a minute")
    else:
        logger.warning(
            "compiling the kernels, which takes about a minute in every process: no folder for compiled "
            "kernels can be written; set NUMBA_CACHE_DIR to one that can"
        )


def can_cache() -> bool:
    """Return whether compiled kernels can be kept for the next process."""
    try:
        FunctionCache(can_cache)
    except RuntimeError:  # numba found no folder that it may write to
        return False
    return True


def compiled(function: Callable[..., Any]) -> Any:
    """Turn a function that returns a signature and a code builder into one that kernels call."""
    return intrinsic(function)


def intrinsic_call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    """Call one of LLVM's intrinsic functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

"""Kernels compile once where a cache can be written, in memory where none can; imports stay light."""

import logging
import os
import pickle
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numba
import pytest

from helpers.samples import sampled
from lookahead import jit as compilation
from lookahead.errors import NotFoundError

TINY_KERNEL = """
from lookahead.jit import kernel

@kernel
def doubled(number: int) -> int:
    return 2 * number
"""

CALLED_BY_C = """
from lookahead.backends.cpu.kernels.pointers import address_of, float_pointer, load_float, store_float
from lookahead.jit import pointer_kernel, shared_kernel

@pointer_kernel
def double(numbers):
    store_float(numbers, 0, load_float(numbers, 0) * 2)

@shared_kernel
def doubled(address):
    double(float_pointer(address_of(address)))
"""

CALLING_AS_C_DOES = """
import ctypes, tiny
number = ctypes.c_float(21)
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(tiny.doubled.address)(ctypes.addressof(number))
print(int(number.value), tiny.doubled.cache_hits, sum(tiny.double.stats.cache_hits.values()))
"""


def run_python(code, folder=None, **environment):
    """Run code in a fresh interpreter in `folder`, warnings being errors; return what it printed."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def without_cache_environment(monkeypatch):
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("without_cache_environment")
def test_where_no_cache_can_be_written_kernels_compile_in_memory(tmp_path):
    # A module in a folder whose __pycache__ cannot be made, and a home that is a file: root fails there too.
    (tmp_path / "tiny.py").write_text(TINY_KERNEL)
    (tmp_path / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    code = "import tiny; print(tiny.doubled(21), type(tiny.doubled._cache).__name__)"
    printed = run_python(code, tmp_path, HOME=str(home), NUMBA_CACHE_DIR=str(home / "cache"))
    assert printed == ["42", "NullCache"]


@pytest.mark.usefixtures("without_cache_environment")
def test_where_a_cache_can_be_written_the_second_process_compiles_nothing(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY_KERNEL)
    code = "import tiny; print(tiny.doubled(21), sum(tiny.doubled.stats.cache_hits.values()))"
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == ["42", "0"]
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == ["42", "1"]


@pytest.mark.usefixtures("without_cache_environment")
def test_kernels_that_c_calls_compile_in_memory_where_no_cache_can_be_written(tmp_path):
    (tmp_path / "tiny.py").write_text(CALLED_BY_C)
    (tmp_path / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    environment = {"HOME": str(home), "NUMBA_CACHE_DIR": str(home / "cache")}
    assert run_python(CALLING_AS_C_DOES, tmp_path, **environment) == ["42", "0", "0"]


@pytest.mark.usefixtures("without_cache_environment")
def test_the_second_process_compiles_no_kernel_that_c_calls(tmp_path):
    (tmp_path / "tiny.py").write_text(CALLED_BY_C)
    cache = str(tmp_path / "cache")
    assert run_python(CALLING_AS_C_DOES, tmp_path, NUMBA_CACHE_DIR=cache) == ["42", "0", "0"]
    assert run_python(CALLING_AS_C_DOES, tmp_path, NUMBA_CACHE_DIR=cache) == ["42", "1", "0"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of kernels in two folders, in the place of Lookahead's own."""
    for name in ("called.py", "drafting/calling.py", "decoding/other.py", "jit.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no kernels here")
    (tmp_path / "drafting" / "calling.py").write_text("@lean_kernel\n")
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "jit.py"))
    return tmp_path


@pytest.mark.parametrize(
    "source", ["@kernel\n", "from llvmlite import ir\n", "class Field(IntEnum):\n    ROWS = 0\n"]
)
@pytest.mark.parametrize("name", ["called.py", "drafting/calling.py", "decoding/new/deep.py"])
def test_a_change_of_a_kernel_anywhere_in_the_package_makes_every_cached_kernel_stale(package, name, source):
    # numba looks for changes only in a kernel's own file, not in those of the kernels it calls.
    digest = compilation.kernels_digest.__wrapped__
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text(source)
    before = digest(package / "drafting")
    (package / "decoding" / "other.py").write_text("changed")
    assert digest(package / "drafting") == before
    (package / name).write_text(f"{source}    # changed")
    assert digest(package / "drafting") != before
    assert digest(package / "drafting") == digest(package / "decoding")


def test_kernels_outside_the_package_go_stale_with_their_own_folder_too(package, tmp_path_factory):
    digest, folder = compilation.kernels_digest.__wrapped__, tmp_path_factory.mktemp("elsewhere")
    before = digest(folder)
    assert before == digest(package)
    (folder / "own.py").write_text("@kernel\n")
    assert digest(folder) != before


def test_all_kernels_carry_one_digest():
    from lookahead.backends.cpu.kernels.products import share_of
    from lookahead.drafting.trie.nodes import find_child

    digest = compilation.kernels_digest(Path(compilation.__file__).parent)
    assert find_child.py_func.__qualname__ == f"find_child-{digest}"
    assert share_of.py_func.__qualname__ == f"share_of-{digest}"


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def with_one_bit_turned(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def with_another_pickle(path):
    path.write_bytes(pickle.dumps(numba.__version__) + pickle.dumps({"another": "program's"}))


DAMAGES = [truncated, emptied, with_one_bit_turned, with_another_pickle]
SUFFIXES = ["nbi", "nbc"]
CALLERS = {
    "Python": (
        TINY_KERNEL,
        "import tiny; print(tiny.doubled(21), sum(tiny.doubled.stats.cache_hits.values()))",
    ),
    "C": (CALLED_BY_C, CALLING_AS_C_DOES.replace(", sum(tiny.double.stats.cache_hits.values())", "")),
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Returns a caller's folder, its code, and the cache, which is whole whenever a test begins."""
    folders = {}

    def cached(caller):
        kernels, code = CALLERS[caller]
        if caller not in folders:
            folder = tmp_path_factory.mktemp(caller)
            (folder / "tiny.py").write_text(kernels)
            assert run_python(code, folder, NUMBA_CACHE_DIR=str(folder / "cache")) == ["42", "0"]
            folders[caller] = folder
        return folders[caller], code, folders[caller] / "cache"

    return cached


@pytest.mark.matrix
@pytest.mark.usefixtures("without_cache_environment")
@pytest.mark.parametrize(
    ("caller", "suffix", "damage"),
    sampled(
        product(CALLERS, SUFFIXES, DAMAGES),
        [
            ("Python", "nbi", truncated),
            ("C", "nbc", emptied),
            ("Python", "nbc", with_one_bit_turned),
            ("C", "nbi", with_another_pickle),
        ],
    ),
)
def test_a_damaged_cache_file_means_compiling_anew(cached, caller, suffix, damage):
    """The sample has each damage, and each file of each caller."""
    folder, code, cache = cached(caller)
    damaged = list(cache.rglob(f"*doubled*.{suffix}"))
    assert damaged
    for path in damaged:
        damage(path)
    assert run_python(code, folder, NUMBA_CACHE_DIR=str(cache)) == ["42", "0"]
    assert run_python(code, folder, NUMBA_CACHE_DIR=str(cache)) == ["42", "1"]


TWO_KERNELS = """
from lookahead.jit import kernel

@kernel
def doubled(number: int) -> int:
    return 2 * number

@kernel
def tripled(number: int) -> int:
    return 3 * number
"""


@pytest.mark.usefixtures("without_cache_environment")
def test_another_kernels_cache_file_is_not_taken_for_its_own(tmp_path):
    (tmp_path / "tiny.py").write_text(TWO_KERNELS)
    code = (
        "import tiny; print(tiny.doubled(21), tiny.tripled(14), sum(tiny.doubled.stats.cache_hits.values()))"
    )
    cache = tmp_path / "cache"
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=str(cache)) == ["42", "42", "0"]
    (mine,), (other,) = cache.rglob("*doubled*.nbc"), cache.rglob("*tripled*.nbc")
    mine.write_bytes(other.read_bytes())
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=str(cache)) == ["42", "42", "0"]


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(compilation, "_SLOW_AFTER_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_the_user_is_told_when_compiling_takes_long(caplog):
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.log_if_slow():
        assert numba.njit(lambda number: number + 1)(1) == 2
    assert "once per installation" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("at_once")
def test_the_user_is_told_what_to_do_when_nothing_can_be_kept(caplog, monkeypatch):
    monkeypatch.setattr(compilation, "can_cache", lambda: False)
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.log_if_slow():
        assert numba.njit(lambda number: number + 2)(1) == 3
    assert "once per installation" not in caplog.text
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_the_user_is_not_told_when_compiling_takes_a_moment(caplog):
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.log_if_slow():
        assert numba.njit(lambda: 1)() == 1
    assert not caplog.records


@pytest.mark.usefixtures("at_once")
def test_the_user_is_not_told_when_something_else_takes_long(caplog):
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.log_if_slow():
        time.sleep(0.05)
    assert not caplog.records


@pytest.mark.usefixtures("without_cache_environment")
@pytest.mark.parametrize(("source", "call"), [(TINY_KERNEL, "doubled(21)"), (CALLED_BY_C, "doubled.address")])
def test_the_user_is_told_of_compiling_and_not_of_loading(tmp_path, source, call):
    (tmp_path / "tiny.py").write_text(source)
    code = (
        "import logging, sys, time; logging.basicConfig(stream=sys.stdout, format='%(levelname)s')\n"
        "from lookahead import jit; jit._SLOW_AFTER_S = 0.0\n"
        "with jit.log_if_slow():\n"
        f"    import tiny; assert tiny.{call}; time.sleep(0.05)"
    )
    cache = str(tmp_path / "cache")
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=cache) == ["WARNING"]
    assert run_python(code, tmp_path, NUMBA_CACHE_DIR=cache) == []


@pytest.mark.usefixtures("without_cache_environment")
def test_compiling_ahead_where_nothing_can_be_kept_is_refused(monkeypatch):
    from lookahead.cli.compile import compile_kernels

    monkeypatch.setattr(compilation, "can_cache", lambda: False)
    with pytest.raises(NotFoundError, match="NUMBA_CACHE_DIR"):
        compile_kernels()


def test_importing_lookahead_imports_nothing_heavy():
    heavy = "torch", "transformers", "numba", "numpy"
    code = f"import sys, lookahead; dir(lookahead); print(*[m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == []


@pytest.mark.parametrize("module", ["config", "errors", "stats"])
def test_settings_errors_and_stats_import_nothing_heavy(module):
    heavy = "torch", "transformers", "numba", "numpy"
    code = f"import sys, lookahead.{module}; print(*[m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == []


def test_drafting_imports_no_torch():
    package = Path(compilation.__file__).parent
    modules = sorted(package.joinpath("drafting").rglob("[a-z]*.py"))
    names = [".".join(module.relative_to(package).with_suffix("").parts) for module in modules]
    imports = "; ".join(f"import lookahead.{name}" for name in names)
    code = f"import sys; {imports}; print(*[m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run_python(code) == []

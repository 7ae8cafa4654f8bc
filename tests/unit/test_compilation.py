"""Kernels compile once where a cache can be written, in memory where none can; imports stay light."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookahead.drafting import compilation

TINY_KERNEL = """
from lookahead.drafting.compilation import kernel

@kernel
def doubled(number: int) -> int:
    return 2 * number
"""

CALLED_BY_C = """
from lookahead.decoding.fused.pointers import address_of, float_pointer, number_at, put
from lookahead.drafting.compilation import pointer_kernel, shared_kernel

@pointer_kernel
def double(numbers):
    put(numbers, 0, number_at(numbers, 0) * 2)

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


def test_a_change_in_any_kernel_module_makes_every_cached_kernel_stale(tmp_path):
    # numba looks for changes in a kernel's own file alone, not in those of the kernels it calls.
    for name, source in {
        "called": "@kernel\n",
        "calling": "@lean_kernel\n",
        "other": "no kernels here",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    digest = compilation._kernels_digest.__wrapped__
    before = digest(tmp_path)
    (tmp_path / "other.py").write_text("changed")
    assert digest(tmp_path) == before
    (tmp_path / "called.py").write_text("@kernel\nchanged")
    assert digest(tmp_path) != before


@pytest.mark.parametrize("source", ["from llvmlite import ir\n", "class Field(IntEnum):\n    ROWS = 0\n"])
def test_what_goes_into_kernels_makes_them_stale_too(tmp_path, source):
    digest = compilation._kernels_digest.__wrapped__
    (tmp_path / "made_of.py").write_text(source)
    before = digest(tmp_path)
    (tmp_path / "made_of.py").write_text(f"{source}    # changed")
    assert digest(tmp_path) != before


def test_a_cached_kernels_name_carries_the_digest():
    from lookahead.drafting.trie_nodes import find_child

    name = find_child.py_func.__qualname__
    assert name == f"find_child-{compilation._kernels_digest(Path(compilation.__file__).parent)}"


def test_each_package_of_kernels_has_its_own_digest():
    from lookahead.decoding.fused.products import share_of

    folder = Path(compilation.__file__).parent.parent / "decoding" / "fused"
    assert share_of.py_func.__qualname__ == f"share_of-{compilation._kernels_digest(folder)}"


def test_the_user_is_told_when_compiling_takes_long(monkeypatch, caplog):
    monkeypatch.setattr(compilation, "_SECONDS_BEFORE_A_WORD", 0.01)
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.telling_the_user():
        time.sleep(0.2)
    assert "compiling the kernels" in caplog.text


def test_the_user_is_not_told_when_it_takes_a_moment(caplog):
    with caplog.at_level(logging.WARNING, "lookahead"), compilation.telling_the_user():
        pass
    assert not caplog.records


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
    modules = sorted(path.stem for path in Path(compilation.__file__).parent.glob("[a-z]*.py"))
    imports = "; ".join(f"import lookahead.drafting.{module}" for module in modules)
    code = f"import sys; {imports}; print(*[m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run_python(code) == []

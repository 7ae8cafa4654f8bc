"""No code that a team of threads runs can raise: no caller would see it, and the others would wait."""

from functools import partial
from pathlib import Path

import pytest

import lookahead
from helpers.samples import thinned
from lookahead import jit
from lookahead.backends.cpu import step
from lookahead.backends.cpu.kernels.gguf import unpacking
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.kernels.gguf.unpacking import Use
from lookahead.backends.cpu.kernels.pointers import address_of, int_pointer, load_int, store_int

SHARED_KERNELS = (
    step._step_in_float32,
    step._step_in_bfloat16,
    step._attention_in_float32,
    step._attention_in_bfloat16,
)
UNPACKING = [(packing, use) for packing in (Packing.Q4_1, Packing.Q6_K) for use in Use]
RAISING = "picklebuf"
"""What compiled code has wherever it can raise: numba keeps a pickle of each exception."""


@pytest.fixture(autouse=True)
def uncached(monkeypatch):
    """Compile anew: numba does not keep the LLVM code of what it loads from its cache."""
    monkeypatch.setattr(jit, "_cache_on_disk", lambda *_arguments: None)


def llvm_of(make):
    return make()._library.get_llvm_str()


def dividing():
    @jit.shared_kernel
    def divides(address):
        numbers = int_pointer(address_of(address))
        store_int(numbers, 0, load_int(numbers, 0) // load_int(numbers, 1))

    return divides


def raising():
    @jit.shared_kernel
    def raises(address):
        if load_int(int_pointer(address_of(address)), 0) == 0:
            raise ValueError

    return raises


@pytest.mark.matrix
@pytest.mark.parametrize("make", thinned(SHARED_KERNELS, 2))
def test_no_code_of_a_team_can_raise(make):
    assert RAISING not in llvm_of(make)


@pytest.mark.parametrize(("packing", "use"), UNPACKING)
def test_no_code_that_unpacks_can_raise(packing, use):
    assert RAISING not in llvm_of(partial(unpacking.unpacker, int(packing), int(use)))


def test_code_that_can_raise_is_found(monkeypatch):
    assert RAISING not in llvm_of(dividing)
    assert RAISING in llvm_of(raising)
    monkeypatch.setitem(jit._OF_A_TEAM, "error_model", "python")
    assert RAISING in llvm_of(dividing)


def test_all_shared_kernels_are_inspected():
    sources = [path.read_text() for path in Path(lookahead.__file__).parent.rglob("*.py")]
    assert sum(source.count("    @shared_kernel\n") for source in sources) == len(SHARED_KERNELS)

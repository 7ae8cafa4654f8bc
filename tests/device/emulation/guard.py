"""The device guard that CUDA tensors need in a build of torch without CUDA: compiled once, then cached."""

import shutil
from functools import cache
from pathlib import Path

import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("guard.cpp")


def why_no_emulation() -> str:
    """Return why no CUDA device can be emulated here, in words; empty if one can be."""
    if torch.backends.cuda.is_built():
        return "this build of torch has CUDA: run tests/gpu on its devices"
    if shutil.which("c++") is None and shutil.which("g++") is None:
        return "there is no C++ compiler for the emulated device's guard"
    if not cpp_extension.is_ninja_available():
        return "there is no ninja for the emulated device's guard"
    return ""


@cache
def install_guard() -> None:
    """Compile and load the guard; it stays for the whole process, where it changes nothing for the CPU."""
    cpp_extension.load("lookahead_emulated_cuda", [str(SOURCE)], is_python_module=False)

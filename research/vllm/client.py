"""`VllmProcess`: a vLLM engine in an environment of its own, from outside."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lookahead.errors import NotFoundError

_MODULE = "research.vllm.engine_process"


class VllmProcess:
    """An engine that is told what to do.

    Args:
        environment: The folder of a virtual environment with vLLM and Lookahead.
        job: What the engine is, see `EngineProcess`.
        threads: Threads of the engine.
        log: A file for what vLLM prints.

    Raises:
        NotFoundError: There is no such environment, or the engine does not start.
    """

    def __init__(self, environment: Path, job: Mapping[str, Any], *, threads: int, log: Path) -> None:
        python = environment / "bin" / "python"
        if not python.exists():
            message = f"there is no vLLM environment {environment}; `make vllm-environment` makes it"
            raise NotFoundError(message)
        self._log = log.open("a")
        self._process = subprocess.Popen(  # noqa: S603
            [str(python), "-m", _MODULE, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | engine_variables(environment, threads),
        )
        try:
            self._answer()
        except NotFoundError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def do(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Let the engine do something and return what it tells.

        Raises:
            NotFoundError: The engine has ended.
        """
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the engine."""
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None  # noqa: S101  likewise
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        line = self._process.stdout.readline()
        if not line:
            message = f"the vLLM engine has ended; {self._log.name} says why"
            raise NotFoundError(message)
        found: dict[str, Any] = json.loads(line)
        return found


def engine_variables(environment: Path, threads: int) -> dict[str, str]:
    """Return the environment variables of a vLLM engine on the CPU."""
    openmp = next((environment / "lib").glob("libiomp5.so"), None)
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **({} if openmp is None else {"LD_PRELOAD": str(openmp)}),
    }

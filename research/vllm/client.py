"""`VllmProcess`: a vLLM engine in an environment of its own, from outside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookahead.errors import NotFoundError
from research.json_process import JsonProcess

_MODULE = "research.vllm.engine_process"


class VllmProcess(JsonProcess):
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
        super().__init__(
            [str(python), "-m", _MODULE, json.dumps(job)],
            name="the vLLM engine",
            log=log,
            variables=engine_variables(environment, threads),
        )

    def do(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Let the engine do something and return what it tells.

        Raises:
            NotFoundError: The engine has ended.
        """
        return self.ask({"do": name, **arguments})


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

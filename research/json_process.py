"""`JsonProcess`: a process in an environment of its own, told and answering line by line in JSON."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lookahead.errors import NotFoundError


class JsonProcess:
    """A process that says that it is ready, and then answers each line with one.

    Args:
        command: What to run.
        name: What messages call it.
        log: A file for what it prints to stderr.
        variables: Environment variables besides those of this process.
        folder: Where it runs; None for this process's folder.

    Attributes:
        ready: What it said when it was ready.

    Raises:
        NotFoundError: It did not start.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        log: Path,
        variables: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self._name = name
        self._log = log.open("a")
        self._process = subprocess.Popen(  # noqa: S603
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            env=os.environ | variables,
        )
        try:
            self.ready = self._answer()
        except NotFoundError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a line.

        Raises:
            NotFoundError: The process has ended.
        """
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        self._process.stdin.write(json.dumps(dict(line)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
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
            message = f"{self._name} has ended; {self._log.name} says why"
            raise NotFoundError(message)
        found: dict[str, Any] = json.loads(line)
        return found

"""How far a long prompt has been read, on a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class PromptProgress:
    """Shows a bar from a prompt's first chunk to its last; nothing for a prompt of one chunk.

    Args:
        console: Where it is shown, if that is a terminal.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("reading the prompt"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, read: int, total: int) -> None:
        """Show the tokens that have been read, of all."""
        if read >= total:
            self._progress.stop()  # before the answer is printed
            return
        self._progress.start()
        self._progress.update(self._task, completed=read, total=total)

"""A run's results, line by line as they come, so that an interrupted run can go on.

The first line says what is measured; another run does not continue it. A line is whole or, where the process
was killed in the midst of it, dropped.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookahead.errors import ConfigError, DataFormatError

_SUFFIX = ".unfinished.jsonl"
_KIND = "lookahead bench, unfinished"

Entry = dict[str, Any]


def journal_beside(report: Path) -> Path:
    """Return where the journal of a report is."""
    return report.with_name(report.name + _SUFFIX)


class Journal:
    """Entries of one run, kept in a file from the first on.

    Args:
        path: the file; one that is there is continued.
        about: what is measured, as JSON can hold it.

    Raises:
        ConfigError: the file is of a run with other settings; the message names the first that differs.
        DataFormatError: the file is no journal.

    Attributes:
        entries: what the file held when it was opened.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self.entries: list[Entry] = []
        header = {"kind": _KIND, "about": json.loads(json.dumps(about))}
        if path.exists():
            self.entries = self._read(header)
        if not self.entries:
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def append(self, entry: Entry) -> None:
        """Keep an entry; it is on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file: the run is finished and reported."""
        self._path.unlink(missing_ok=True)

    def _read(self, header: Entry) -> list[Entry]:
        """Return the whole lines after the first, and cut off one that is not whole."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise self._no_journal() from error
        if not lines:
            return []
        if not isinstance(lines[0], dict) or lines[0].get("kind") != _KIND:
            raise self._no_journal()
        self._check_same(lines[0]["about"], header["about"])
        return lines[1:]

    def _check_same(self, theirs: Entry, ours: Entry) -> None:
        for name in dict.fromkeys([*theirs, *ours]):
            if theirs.get(name) != ours.get(name):
                message = (
                    f"{self._path} is of an unfinished run with {name}={theirs.get(name)!r:.200}, not "
                    f"{ours.get(name)!r:.200}; run it with the same settings to go on, or delete the file to "
                    "begin anew"
                )
                raise ConfigError(message)

    def _no_journal(self) -> DataFormatError:
        message = f"{self._path} is no journal of an unfinished run; delete it, or write the report elsewhere"
        return DataFormatError(message)

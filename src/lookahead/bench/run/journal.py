"""A run's results as lines of a file, written as they come, so that an interrupted run can be resumed.

The first line holds the settings; only a run with the same settings resumes. A line that was cut off because
the process was killed is dropped.
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
    """Return the path of a report's journal."""
    return report.with_name(report.name + _SUFFIX)


class Journal:
    """The entries of one run, kept in a file.

    Args:
        path: The file; an existing one is continued.
        about: The settings of the run, JSON-serialisable.

    Raises:
        ConfigError: The file belongs to a run with other settings; the message names the first difference.
        DataFormatError: The file is not a journal.

    Attributes:
        entries: The entries that the file held when it was opened.
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
        """Append an entry, and return when it is on the disk."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file, after the run is finished and reported."""
        self._path.unlink(missing_ok=True)

    def _read(self, header: Entry) -> list[Entry]:
        """Return the complete lines after the first, and cut off an incomplete one."""
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

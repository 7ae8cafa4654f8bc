"""Find data sets: at the given path, or in the folder that `LOOKAHEAD_DATA` names."""

import os
from pathlib import Path

DATA_VARIABLE = "LOOKAHEAD_DATA"


def find_data(path: Path) -> Path:
    """Return the path of a data file; the given path if the file is in neither place."""
    folder = os.environ.get(DATA_VARIABLE)
    if path.exists() or not folder:
        return path
    beside = Path(folder) / path
    return beside if beside.is_file() else path

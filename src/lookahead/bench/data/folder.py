"""Where data sets are: at the path given, or under its name in the folder of `LOOKAHEAD_DATA`."""

import os
from pathlib import Path

DATA_VARIABLE = "LOOKAHEAD_DATA"


def find_data(path: Path) -> Path:
    """Return where a data file is; where it is in neither place, the path as it was given."""
    folder = os.environ.get(DATA_VARIABLE)
    if path.exists() or not folder:
        return path
    beside = Path(folder) / path
    return beside if beside.is_file() else path

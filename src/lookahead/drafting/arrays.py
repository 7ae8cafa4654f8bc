"""The types of the arrays and numbers that drafting works on."""

from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

Integer = int | np.integer[Any]
"""A node or token inside kernels: arrays give numpy's integers, arguments Python's."""

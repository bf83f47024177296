"""Numbers in files: as many as the disk holds, read through the operating system's cache."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class Column:
    """Rows of numbers that are appended to a file and read as one array.

    Args:
        path: the file; made empty.
        dtype: the numbers' type.
        width: numbers in a row; a column of width 1 is read as a flat array.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int = 1) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._width = width
        self._file = path.open("wb")

    def append(self, values: Any) -> None:
        """Append rows; they are in the array that is read from now on."""
        # Not tofile(): it writes past the file object, and a full disk goes unseen.
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def read(self) -> npt.NDArray[Any]:
        """Return all rows, memory-mapped and not to be written to."""
        self._file.flush()
        empty = not self._path.stat().st_size  # an empty file cannot be mapped
        flat = np.zeros(0, self._dtype) if empty else np.memmap(self._path, dtype=self._dtype, mode="r")
        return flat if self._width == 1 else flat.reshape(-1, self._width)

    def close(self) -> None:
        """Close the file; arrays that were read stay good as long as it is not deleted."""
        self._file.close()

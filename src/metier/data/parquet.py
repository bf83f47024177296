"""Parquet tables, read a group of rows at a time."""

from collections.abc import Iterator

from metier.data.archives import File
from metier.data.tables import Row, head, key_of_column
from metier.errors import DataError, not_installed

_ROWS = 5000


def read_parquet(file: File, columns: tuple[int | str, int | str]) -> tuple[Iterator[Row], tuple[str, str]]:
    """Return the rows, as objects of the wanted columns, and the columns' names.

    Raises:
        DataError: when the file is damaged or lacks a column; also while reading.
        RunError: when pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise not_installed(file.name, "pyarrow", "parquet") from error
    try:
        table = parquet.ParquetFile(file.path)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error
    names = table.schema_arrow.names
    first, second = (key_of_column(file.name, column, names) for column in columns)

    def rows() -> Iterator[Row]:
        wanted = list({head(first, names), head(second, names)})
        try:
            with table:
                batches = table.iter_batches(_ROWS, columns=wanted)
                yield from enumerate((cells for batch in batches for cells in batch.to_pylist()), 1)
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(file, error) from error

    return rows(), (first, second)


def _damaged(file: File, error: Exception) -> DataError:
    reason = str(error).strip().partition("\n")[0]
    return DataError(file.name, f"is damaged or no Parquet file ({reason})", "Fetch or write it again")

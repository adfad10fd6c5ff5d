"""Lists and tables of images: lines of a text, a column of a CSV or Parquet file."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any

from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.imaging.decoding import Limits
from tta_server.scoring.arrow import pyarrow_parquet
from tta_server.scoring.batches import InputImage
from tta_server.scoring.files import absolute, is_url, open_file
from tta_server.scoring.url_listing import stamp

if TYPE_CHECKING:
    from tta_server.scoring.inputs import Files

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
"""Columns that are taken for the images where no other is named."""
BYTES_COLUMNS = ("image", "bytes", "content", *PATH_COLUMNS)
ID_COLUMNS = ("id", "key", "path", "name")


def read_list(path: str) -> Sequence[str]:
    """The lines of a text file that are not empty: URLs, or paths relative to the file's folder. Raises ConfigError."""
    with open_file(path) as file, _text(file) as lines:
        return [name for line in lines if (name := line.rstrip("\r\n"))]


def _text(file: IO[bytes], newline: str | None = None) -> TextIOWrapper:
    return TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def read_csv(path: str, column: str | None) -> Sequence[str]:
    """The cells of a column of a CSV file, or of a table with tabs (.tsv). Raises ConfigError or InvalidInput."""
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    try:
        with open_file(path) as file, _text(file, newline="") as lines:
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next(rows, [])
            index = header.index(check_column(column, header, path, PATH_COLUMNS))
            return [row[index] if len(row) > index else "" for row in rows if row]
    except csv.Error as error:
        raise ConfigError(f"{path}: is not a valid CSV file: {error}") from None


def check_column(column: str | None, columns: Sequence[str], path: str, usual: Sequence[str]) -> str:
    """The column that holds the images. Raises InvalidInput that lists the columns."""
    if column is None:
        column = next((name for name in usual if name in columns), columns[0] if len(columns) == 1 else None)
    if column is None or column not in columns:
        what = f"has no column {shown(column)}" if column else "has several columns"
        raise InvalidInput(f"{path}: {what}; name one with --column: {', '.join(map(shown, columns))}")
    return column


@dataclass(frozen=True, slots=True)
class ParquetBytes:
    """A column of images' bytes, read a row group at a time; `ends` are the numbers of rows up to each group's end.

    `skip` rows of the file come before the first.
    """

    path: str
    column: str
    ids: Sequence[str]
    ends: Sequence[int]
    notes: Sequence[str] = ()
    skip: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def marks(self) -> Iterator[str]:
        """The length, or a URL's digest of it, is that of the whole file."""
        known = stamp(self.path).hex() if is_url(self.path) else os.stat(self.path).st_size
        for one in self.ids:
            yield f"{one}\0{known}"

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[InputImage]:
        with _parquet(self.path) as table:
            first = -self.skip
            for group, end in enumerate(each - self.skip for each in self.ends):
                if first < stop and start < end:
                    values = table.read_row_group(group, columns=[self.column]).column(0)
                    for row in range(max(start, first), min(stop, end)):
                        yield InputImage(self.ids[row], partial(_bytes_of, values[row - first]))
                first = end

    def part(self, start: int, stop: int) -> "ParquetBytes":
        path, skip = absolute(self.path), self.skip + start
        return ParquetBytes(path, self.column, self.ids[start:stop], self.ends, skip=skip)


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """A Parquet file, open. Raises ConfigError."""
    parquet = pyarrow_parquet()
    with open_file(path) if is_url(path) else nullcontext(path) as source:
        try:
            table = parquet.ParquetFile(source)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: is not a valid Parquet file: {str(error).splitlines()[0]}") from None
        with table:
            yield table


def _bytes_of(value: Any) -> bytes:
    """The bytes in a cell: plain, or in a struct of bytes and path, as datasets of Hugging Face have them."""
    found = value.as_py()
    if isinstance(found, dict):
        found = found.get("bytes")
    if not isinstance(found, bytes):
        raise InvalidInput("the cell holds no image")
    return found


def read_parquet(
    path: str, column: str | None, files: "Callable[[Sequence[str | None]], Files]"
) -> "Files | ParquetBytes":
    """The images of a column of paths or of bytes. Raises ConfigError or InvalidInput."""
    with _parquet(path) as table:
        names = table.schema_arrow.names
        chosen = check_column(column, names, path, BYTES_COLUMNS)
        kind = str(table.schema_arrow.field(chosen).type)
        if kind in ("string", "large_string"):
            return files(table.read(columns=[chosen]).column(0).to_pylist())
        if "binary" not in kind:
            raise InvalidInput(f"{path}: column {chosen} holds {kind}; it takes paths or the bytes of images")
        key = next((name for name in ID_COLUMNS if name in names and name != chosen), None)
        ids = [f"{os.path.basename(path)}:{row}" for row in range(table.metadata.num_rows)]
        if key is not None:
            ids = [str(value) for value in table.read(columns=[key]).column(0).to_pylist()]
        groups = range(table.metadata.num_row_groups)
        ends = accumulate(table.metadata.row_group(group).num_rows for group in groups)
        return ParquetBytes(path, chosen, ids, list(ends))
